"""A classifier of two interleaved half circles: model, data and transform, as explain.yaml names them."""

from __future__ import annotations

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn


def model(hidden: int = 16) -> nn.Module:
    """A network with one hidden layer."""
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))


class Moons:
    """Points as input tensors [2] with labels; each has an id that stays the same for ever."""

    def __init__(self, seed: int, size: int = 300) -> None:
        points, labels = make_moons(size, noise=0.2, random_state=seed)
        self.points = torch.tensor(points, dtype=torch.float32)
        self.labels = torch.tensor(labels)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.points[index], int(self.labels[index])

    def example_id(self, index: int) -> str:
        """Stable id of an example."""
        return f"moons-{self.seed}-{index:03d}"
