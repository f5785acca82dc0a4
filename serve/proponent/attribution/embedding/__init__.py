"""From gradients to short vectors whose inner products are influences."""
