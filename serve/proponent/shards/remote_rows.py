"""Rows that lie with scanners, as a store of rows: what is taken of them comes here, and products with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from proponent.index.row_store import RowStore
from proponent.shards.scanner import tensor_of

Answers = Mapping[int, Any]
"""By the number of the shard."""


class Scanners(Protocol):
    """One `Scanner` for each shard."""

    def begin(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> Callable[[], Answers]:
        """Asks some scanners at once; what is returned waits for their answers.

        Args:
            method: Of a scanner.
            arguments: For each that is asked, by the number of its shard.

        Raises:
            UnavailableError: A scanner is not there now, at the beginning or before it has answered.
        """

    def check(self) -> None:
        """Raises UnavailableError unless all are there and answer."""

    def wait(self, patience_s: float) -> None:
        """Waits until all rows are loaded.

        Raises:
            UnavailableError: They are not after so many seconds, and go on loading; or they cannot be.
        """


class RemoteRows(RowStore):
    """The rows of a container in stretches, each with one scanner.

    Args:
        scanners: One for each stretch.
        places: The stretches, in order.
        width: The padded K.
    """

    def __init__(self, scanners: Scanners, places: Sequence[slice], width: int) -> None:
        self._scanners = scanners
        self._places = places
        self._width = width
        self._starts = [place.start for place in places]
        self.device = torch.device("cpu")

    @override
    def __len__(self) -> int:
        return int(self._places[-1].stop)

    @property
    @override
    def width(self) -> int:
        return self._width

    def _ask(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> list[Any]:
        answers = self._scanners.begin(method, arguments)()
        return [answers[number] for number in arguments]

    def _cut(self, place: slice) -> dict[int, slice]:
        """A stretch of rows as those of shards, each counted from its shard's beginning."""
        start, stop, _ = place.indices(len(self))
        cut = {
            number: slice(max(start, own.start) - own.start, min(stop, own.stop) - own.start)
            for number, own in enumerate(self._places)
        }
        return {number: part for number, part in cut.items() if part.start < part.stop}

    def _by_shard(self, places: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Which of some places [n] lie in each shard, and where they lie there."""
        shards = torch.bucketize(places, torch.tensor(self._starts[1:]), right=True)
        return {
            number: ((own := (shards == number).nonzero().flatten()), places[own] - self._starts[number])
            for number in torch.unique(shards).tolist()
        }

    @override
    def products(self, queries: Tensor, place: slice = slice(None), *, precise: bool = False) -> Tensor:
        asked = queries.float().numpy()
        parts = self._ask("products", {n: (asked, part, precise) for n, part in self._cut(place).items()})
        return torch.cat([tensor_of(part) for part in parts], dim=1) if parts else torch.empty(len(asked), 0)

    @override
    def take(self, rows: Tensor) -> Tensor:
        shards = self._by_shard(rows)
        found = torch.empty(len(rows), self._width, dtype=torch.float16)
        for (own, _), part in zip(
            shards.values(), self._ask("take", {n: (where.numpy(),) for n, (_, where) in shards.items()}), strict=True
        ):
            found[own] = tensor_of(part)
        return found

    @override
    def between(self, place: slice) -> Tensor:
        parts = self._ask("between", {number: (part,) for number, part in self._cut(place).items()})
        return torch.cat([tensor_of(part) for part in parts])

    @override
    def exact_products(self, queries: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        shards, asked = self._by_shard(rows), queries.numpy()
        found = torch.empty(len(rows), dtype=torch.float64)
        calls = {n: (asked, owners[own].numpy(), where.numpy()) for n, (own, where) in shards.items()}
        for (own, _), part in zip(shards.values(), self._ask("exact_products", calls), strict=True):
            found[own] = tensor_of(part)
        return found

    @override
    def whole_sums(self, digits: Tensor) -> Tensor:
        calls = {n: (digits[:, own].contiguous().numpy(),) for n, own in enumerate(self._places)}
        wanted = {number: call for number, call in calls.items() if call[0].any()}
        parts = [tensor_of(part) for part in self._ask("whole_sums", wanted)]
        return torch.stack(parts).sum(dim=0)
