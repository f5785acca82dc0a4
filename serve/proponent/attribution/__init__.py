"""The mathematics of influence: torch in, tensors out."""
