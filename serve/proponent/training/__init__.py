"""Deterministic training in memory, and presets of known models.

``proponent.training:fit`` is what the ``training`` key of a spec names.
"""

from proponent.training.loop import fit

__all__ = ["fit"]
