"""A dataset without its forgotten examples."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


class Remaining:
    """A map-style dataset whose forgotten examples cannot be reached; the others keep their ids and order."""

    def __init__(self, dataset: Any, forgotten: Collection[str]) -> None:
        self._dataset = dataset
        self._positions = [i for i in range(len(dataset)) if self._id(i) not in forgotten]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, position: int) -> Any:
        return self._dataset[self._positions[position]]

    def example_id(self, position: int) -> str:
        """Id of an example, by the dataset or by its place there."""
        return self._id(self._positions[position])

    def source(self, position: int) -> str:
        """Where the example comes from, or an empty text."""
        source = getattr(self._dataset, "source", None)
        return str(source(self._positions[position])) if source else ""

    def _id(self, position: int) -> str:
        name = getattr(self._dataset, "example_id", None)
        return str(name(position)) if name else str(position)
