"""Gradients of blocks that one pass has computed and a later one asks for, as many as fit into a rebuild's memory.

Covariances, eigenvalues, subspaces and rows are made of the same examples. A block is kept with the very tensors that
were computed, under the examples that it consists of: who asks for it finds what he would compute himself, bit by
bit, or nothing. So what is kept decides how long a rebuild takes and never what it gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from proponent.attribution.curvature.rotation import Part, RotatedGradients
from proponent.attribution.embedding.whitening import Whitening, rotate
from proponent.attribution.gradients.formed import AnyGradient, least_bytes, smallest
from proponent.attribution.gradients.scaling import ScaledGradient
from proponent.machine_memory import available_bytes
from proponent.rebuild.training_set import Batch

FREE = 4
"""Part of a rebuild's memory, one of so many, that kept gradients leave to it, and to the machine."""


@dataclass(frozen=True)
class Labelled:
    """Gradients of a block at its labels, up to the factor of each example."""

    scaled: ScaledGradient
    gradients: Mapping[str, AnyGradient]

    def rotated(self, whitening: Whitening) -> RotatedGradients:
        """The same in the eigenbases; read each layer once."""
        return rotate(whitening, self.gradients)

    def smallest(self) -> Labelled:
        """The same, as what takes the least memory."""
        return Labelled(self.scaled, smallest([self.gradients])[0])

    def least_bytes(self) -> int:
        """What that takes at most."""
        return sum(least_bytes(gradient, 1) for gradient in self.gradients.values())

    def tensors(self) -> Iterator[Tensor]:
        """What takes memory."""
        for gradient in self.gradients.values():
            yield from gradient.tensors()


@dataclass(frozen=True)
class LabelledRotated:
    """Gradients of a block at its labels, up to the factor of each example, in the eigenbases."""

    scaled: ScaledGradient
    gradients: Mapping[str, list[Part]]

    def rotated(self, whitening: Whitening) -> RotatedGradients:
        """As they are: the eigenbases are those of the whitening."""
        return self.gradients

    def tensors(self) -> Iterator[Tensor]:
        """What takes memory."""
        for parts in self.gradients.values():
            for _, part in parts:
                yield from vars(part).values()


@dataclass(frozen=True)
class Captured:
    """Gradients of a block from one forward.

    Attributes:
        fisher: The curvature's.
        labelled: At the labels, where a later pass asks for them.
    """

    fisher: Mapping[str, AnyGradient]
    labelled: Labelled | None

    def smallest(self) -> Captured:
        """The same, as what takes the least memory."""
        if self.labelled is None:
            return Captured(smallest([self.fisher])[0], None)
        fisher, others = smallest([self.fisher, self.labelled.gradients])
        return Captured(fisher, Labelled(self.labelled.scaled, others))

    def least_bytes(self) -> int:
        """What that takes at most."""
        count = 1 if self.labelled is None else 2
        return sum(least_bytes(gradient, count) for gradient in self.fisher.values())

    def tensors(self) -> Iterator[Tensor]:
        """What takes memory."""
        for gradient in self.fisher.values():
            yield from gradient.tensors()
        if self.labelled is not None:
            yield from self.labelled.tensors()


Kept = Captured | Labelled | LabelledRotated


class KeptGradients:
    """What is kept of blocks, by the keys of their examples.

    Args:
        memory: Bytes that it may take.
        least_free: Bytes that it leaves to other processes and to what else a rebuild does.
    """

    def __init__(self, memory: int = 0, least_free: int = 0) -> None:
        self._left, self._least_free = memory, least_free
        self._found: dict[tuple[int, ...], tuple[Kept, int]] = {}

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit, in the budget and in the machine."""
        return size <= self._left and size + self._least_free <= available_bytes()

    def add(self, batch: Batch, value: Kept) -> None:
        """Keeps something of a block where there is room, in place of what was kept of it.

        Its tensors must not be written to.
        """
        self.take(batch)  # a chunk that has failed is computed again
        size = bytes_of(value.tensors())
        if self.has_room(size):
            self._found[_key(batch)] = value, size
            self._left -= size

    def find(self, batch: Batch) -> Kept | None:
        """What is kept of a block, if anything."""
        found = self._found.get(_key(batch))
        return None if found is None else found[0]

    def take(self, batch: Batch) -> Kept | None:
        """The same for the last time."""
        found, size = self._found.pop(_key(batch), (None, 0))
        self._left += size
        return found

    def clear(self) -> None:
        """Nobody asks for the rest."""
        self._left += sum(size for _, size in self._found.values())
        self._found.clear()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Memory that some tensors hold, which several of them may share."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _key(batch: Batch) -> tuple[int, ...]:
    return tuple(batch.keys.tolist())
