"""What people look at, outside of the explorer's page: HTML from templates, plots, and figures in words.

It imports nothing of ours, so that results can show themselves.
"""
