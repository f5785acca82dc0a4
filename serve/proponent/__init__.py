"""Serve a PyTorch classifier with the training examples that argued for and against each prediction."""

__version__ = "0.1.0"
