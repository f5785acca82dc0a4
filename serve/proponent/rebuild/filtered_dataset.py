"""What a map-style dataset says of its examples, and one without those that were forgotten."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def example_id_of(dataset: Any, position: int) -> str:
    """What a dataset's ``example_id`` says, or the position where it has none."""
    name = getattr(dataset, "example_id", None)
    return str(name(position)) if name else str(position)


def source_of(dataset: Any, position: int) -> str:
    """What a dataset's ``source`` says, or an empty text where it has none."""
    source = getattr(dataset, "source", None)
    return str(source(position)) if source else ""


class FilteredDataset:
    """A map-style dataset whose forgotten examples cannot be reached; the others keep their ids and order."""

    def __init__(self, dataset: Any, forgotten: Collection[str]) -> None:
        self._dataset = dataset
        self._positions = [i for i in range(len(dataset)) if example_id_of(dataset, i) not in forgotten]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, position: int) -> Any:
        return self._dataset[self._positions[position]]

    def example_id(self, position: int) -> str:
        """Id of an example, by the dataset or by its place there."""
        return example_id_of(self._dataset, self._positions[position])

    def source(self, position: int) -> str:
        """Where the example comes from, or an empty text."""
        return source_of(self._dataset, self._positions[position])
