"""Planted label errors: a dataset like another one, with a seeded share of its labels flipped."""

from __future__ import annotations

from typing import Any

import torch

from proponent.classifier import import_attribute
from proponent.errors import SpecError
from proponent.rebuild.filtered_dataset import example_id_of
from proponent.spec import Factory, ModelSpec


class FlippedLabels:
    """Wraps a map-style dataset; ``flipped`` holds the positions whose label is wrong."""

    def __init__(self, dataset: Any, classes: int, fraction: float, seed: int) -> None:
        self._dataset = dataset
        self._classes = classes
        self.flipped = set(flipped_positions(len(dataset), fraction, seed))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        item, label = self._dataset[position]
        return item, (int(label) + 1) % self._classes if position in self.flipped else int(label)

    def example_id(self, position: int) -> str:
        """The id in the wrapped dataset, or the position."""
        return example_id_of(self._dataset, position)


def flipped_positions(size: int, fraction: float, seed: int) -> list[int]:
    """The seeded sample of positions that get the next class as label.

    Raises:
        SpecError: The fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise SpecError(f"label noise has value {fraction}, expected a share between 0 and 1", field="label_noise")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[: max(1, round(size * fraction))].tolist()


def flip(factory: str, kwargs: dict[str, Any], classes: int, fraction: float, seed: int) -> FlippedLabels:
    """Dataset factory: another factory's dataset with flipped labels."""
    return FlippedLabels(import_attribute(factory)(**kwargs), classes, fraction, seed)


def with_label_noise(spec: ModelSpec, fraction: float, seed: int) -> ModelSpec:
    """The spec on the same data with flipped labels."""
    kwargs = {
        "factory": spec.dataset.factory,
        "kwargs": spec.dataset.kwargs,
        "classes": len(spec.class_names),
        "fraction": fraction,
        "seed": seed,
    }
    return spec.model_copy(update={"dataset": Factory(factory=f"{__name__}:flip", kwargs=kwargs)})
