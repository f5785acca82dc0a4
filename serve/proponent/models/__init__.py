"""Model architectures: callables with keyword arguments that return a plain ``nn.Module``."""
