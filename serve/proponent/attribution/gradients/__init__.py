"""Per-example gradients of covered layers, from one forward and one backward of a whole batch."""
