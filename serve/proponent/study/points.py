"""Points of a plane in two classes, with one outlier: the geometry of section 6 as a data set."""

from __future__ import annotations

import torch
from torch import Tensor

OUTLIER = 0
"""Position of the outlier in the training set: a point of class 1 on the far side of class 0."""
_CENTRES = torch.tensor([[-0.25, 0.0], [0.25, 0.0]])


class Points:
    """Map-style: ``(coordinates [2] float32, label)``.

    Attributes:
        coordinates: [N, 2] float32.
        labels: [N] int64.
    """

    class_names = ("blue", "orange")

    def __init__(self, coordinates: Tensor, labels: Tensor, name: str) -> None:
        self.coordinates = coordinates
        self.labels = labels
        self._name = name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.coordinates[position], int(self.labels[position])

    def example_id(self, position: int) -> str:
        """``name-number``."""
        return f"{self._name}-{position:04d}"


def train(count: int = 100, seed: int = 0, limit: int | None = None) -> Points:
    """Two overlapping clouds of ``count`` points in all, and the outlier before them."""
    points = _clouds(count, seed, f"points-{seed}")
    coordinates = torch.cat([torch.tensor([[-1.6, 1.2]]), points.coordinates])
    labels = torch.cat([torch.tensor([1]), points.labels])
    return Points(coordinates[:limit], labels[:limit], f"points-{seed}")


def test(count: int = 100, seed: int = 0, limit: int | None = None) -> Points:
    """Other points of the same clouds."""
    points = _clouds(count, seed + 1000, f"points-test-{seed}")
    return Points(points.coordinates[:limit], points.labels[:limit], f"points-test-{seed}")


def as_they_are(point: Tensor) -> Tensor:
    """The transform of points, which are model inputs already."""
    return point


def _clouds(count: int, seed: int, name: str) -> Points:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return Points(_CENTRES[labels] + 0.3 * torch.randn(count, 2, generator=generator), labels, name)
