"""A dataset held as lists, of texts, records or whatever a transform takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Examples(Generic[T]):
    """A finite, ordered set of labelled examples.

    Attributes:
        inputs: N texts, records or others.
        labels: N class numbers.
        class_names: Name of each class.
        ids: Unique ids, the same whatever the limit or the data root.
        sources: Where each comes from.
    """

    inputs: Sequence[T]
    labels: Sequence[int]
    class_names: list[str]
    ids: Sequence[str]
    sources: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[T, int]:
        return self.inputs[index], self.labels[index]

    def example_id(self, index: int) -> str:
        """Unique id."""
        return self.ids[index]

    def source(self, index: int) -> str:
        """A file and a line of it."""
        return self.sources[index]

    def take(self, indices: Sequence[int]) -> Examples[T]:
        """Some of them, in this order."""
        return Examples(
            inputs=[self.inputs[index] for index in indices],
            labels=[self.labels[index] for index in indices],
            class_names=self.class_names,
            ids=[self.ids[index] for index in indices],
            sources=[self.sources[index] for index in indices],
        )
