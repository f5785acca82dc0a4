"""Tiny models and data, built lazily, that several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class TwiceUsed(nn.Module):
    """A hidden layer applied twice, an in-place activation and a Linear over an extra dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Linear(3, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.token(x))
        x = torch.tanh(self.hidden(x))
        x = torch.tanh(self.hidden(x))
        return self.head(x.mean(1))


class Grouped(nn.Module):
    """Grouped, depthwise and pointwise convolutions with BatchNorm and in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect", dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
        self.pointwise = nn.Conv2d(4, 6, 1, groups=2)
        self.head = nn.Linear(6, 3)
        self.relu, self.act = nn.ReLU(inplace=True), nn.ELU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.act(self.pointwise(self.act(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """A model, inputs for it and labels."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor

    @property
    def ids(self) -> Tensor:
        return torch.arange(len(self.labels)) * 7 + 3

    def batches(self, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        parts = zip(*(t.split(size) for t in (self.inputs, self.labels, self.ids)), strict=True)
        return list(parts)


def _case(
    build: Callable[[], nn.Module], shape: tuple[int, ...], classes: int, count: int, dtype: torch.dtype
) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().to(dtype).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
        inputs = torch.randn(count, *shape, dtype=torch.float64).to(dtype)
        return Case(model, inputs, torch.randint(classes, (count,)))


def logistic(count: int = 12, dtype: torch.dtype = torch.float64) -> Case:
    return _case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), (2, 3), 3, count, dtype)


def binary_logistic(count: int = 12, dtype: torch.dtype = torch.float64) -> Case:
    return _case(lambda: nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)), (5,), 2, count, dtype)


def mlp(count: int = 12, dtype: torch.dtype = torch.float64) -> Case:
    return _case(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,), 3, count, dtype)


def cnn(count: int = 9, dtype: torch.dtype = torch.float64) -> Case:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(2, 2, 2, groups=2),
            nn.Flatten(),
            nn.Linear(2, 3),
        )

    return _case(build, (1, 6, 6), 3, count, dtype)


def twice_used(count: int = 6, dtype: torch.dtype = torch.float64) -> Case:
    return _case(TwiceUsed, (5, 3), 3, count, dtype)


def grouped(count: int = 6, dtype: torch.dtype = torch.float64) -> Case:
    return _case(Grouped, (2, 7, 7), 3, count, dtype)


MODELS = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn": cnn,
    "twice_used": twice_used,
    "grouped": grouped,
}
