"""What each example was when it was first read, so that a dataset that changes shows itself.

A rebuild reads every example several times and takes it for the same one each time. Keeping the inputs would take
the data's own size, so a label, an id and one projection of the input are kept: 16 bytes an example.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALL = 1e-3
"""Of an input's root mean square: above it a number counts by its logarithm, so that large ones do not hide others
(an age beside a salary, a frequent token beside a rare one)."""
TOLERANCE = 1e-4
"""Relative change of an input below which it counts as the same: rounding stays far below, augmentation far above."""


class Readings:
    """First readings of the examples of a dataset."""

    def __init__(self, size: int) -> None:
        self._keys = torch.zeros(size, dtype=torch.int64)
        self._projections = torch.full((size,), torch.nan, dtype=torch.float64)
        self._pattern = torch.zeros(0, dtype=torch.float64)

    def change(self, position: int, key: int, value: Tensor) -> str:
        """What differs from the first reading, "id or label" or "input"; empty where nothing does, or at the first.

        Args:
            position: Of the example.
            key: Of its id and label.
            value: The model's input, of the same size for all examples; finite.
        """
        flat = _compressed(value.detach().flatten().cpu().double())
        projection, scale = float(flat @ self._noise(len(flat))), _root_mean_square(flat)
        first = float(self._projections[position])
        if first != first:
            self._keys[position], self._projections[position] = key, projection
            return ""
        if int(self._keys[position]) != key:
            return "id or label"
        return "input" if abs(projection - first) > TOLERANCE * max(scale, abs(first)) else ""

    def _noise(self, size: int) -> Tensor:
        """A seeded direction: it is unlikely that a change does not show in it, and that no other change does."""
        if len(self._pattern) != size:
            noise = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            self._pattern = noise / max(size, 1) ** 0.5
        return self._pattern


def _compressed(flat: Tensor) -> Tensor:
    """As large as before as a whole, but with numbers of different sizes brought together."""
    size = _root_mean_square(flat)
    return (flat / (SMALL * size)).asinh() * size if size > 0 else flat


def _root_mean_square(flat: Tensor) -> float:
    return float(flat.norm()) / math.sqrt(max(len(flat), 1))
