"""The chunks of a rebuild computed on a Ray cluster: nodes may come, go and fail while it runs."""
