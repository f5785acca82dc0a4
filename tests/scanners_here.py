"""Scanners of shards without a cluster: in this process, but what goes to them and comes back is sent."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proponent.errors import UnavailableError
from proponent.index.row_code import CodedRows, RowCode
from proponent.index.row_store import ResidentRows
from proponent.index.rows import InfluenceIndex, padded
from proponent.index.searchable import RowScales
from proponent.shards.remote_rows import Answers
from proponent.shards.scanner import Scanner, members
from proponent.shards.shard import Shard, stretches
from proponent.shards.sharded_index import ShardedIndex


def sent(value: Any) -> Any:
    """As another process gets it: arrays that may not be written to."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])


class ScannersHere:
    """One after the other.

    Attributes:
        lost: Numbers of scanners that do not answer.
        asked: Methods, in the order of the calls.
    """

    def __init__(self, scanners: Sequence[Scanner]) -> None:
        self._scanners = scanners
        self.lost: set[int] = set()
        self.asked: list[str] = []

    @classmethod
    def loaded(cls, shards: Sequence[Shard]) -> ScannersHere:
        found = [Scanner(torch.get_num_threads()) for _ in shards]
        for scanner, shard in zip(found, shards, strict=True):
            scanner.load(sent(shard))
        return cls(found)

    def begin(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> Callable[[], Answers]:
        self.asked.append(method)
        self.check()
        sets = sent(dict(arguments))
        return lambda: {n: sent(getattr(self._scanners[n], method)(*given)) for n, given in sets.items()}

    def check(self) -> None:
        if self.lost:
            raise UnavailableError(f"shards {self.lost} were lost", reason="SHARD_LOST")

    def wait(self, patience_s: float) -> None:
        self.check()


def sharded(codes: Tensor, scales: RowScales, size: int, shards: int, code: RowCode | None = None) -> ShardedIndex:
    """An index over rows [N, padded size] of a container, in shards that were never files."""
    places, scanners = stretches(len(codes), shards), []
    for place in places:
        rows = members(code, place)
        own = RowScales(**{name: column[rows] for name, column in vars(scales).items()})
        scanner, held = Scanner(torch.get_num_threads()), ResidentRows(codes[place].clone())
        scanner._codes = held
        if code is None:
            scanner._index = InfluenceIndex(None, held, own, size)
        else:
            coded = CodedRows(held, RowCode(code.bases, code.groups[rows]))
            scanner._index = InfluenceIndex(None, coded, own, int(code.bases.shape[2]), size)
        scanners.append(scanner)
    assert codes.shape[1] == padded(size)
    return ShardedIndex(ScannersHere(scanners), places, scales, size, code)
