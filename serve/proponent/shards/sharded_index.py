"""A bundle's rows in shards, searched as one: every scanner is asked once for a batch, and what they find is merged.

A scanner gives candidates with exact products and a bound on all its other rows. Together they are candidates of the
whole, whose bound is the largest one, so that the lists made of them are those of one scan: ids, scores and order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from typing_extensions import override

from proponent.index.bundle import CODE, SCALES, Manifest
from proponent.index.row_code import CodedRows, RowCode, read_code
from proponent.index.rows import padded, read_scales
from proponent.index.scan import Candidates, End, PendingScan, Places, Query
from proponent.index.searchable import RowScales, SearchableRows
from proponent.options import Measure
from proponent.shards.remote_rows import Answers, RemoteRows, Scanners
from proponent.shards.scanner import Bits, ScanRequest, members
from proponent.shards.shard import Shard, divided


class ShardedIndex(SearchableRows):
    """Rows that lie with scanners, and their scales here.

    Args:
        scanners: One for each shard, loaded.
        places: Their stretches of the container, in order.
        scales: Of all rows.
        size: Numbers of a row.
        code: Of all rows, where they are coded.
    """

    def __init__(
        self, scanners: Scanners, places: Sequence[slice], scales: RowScales, size: int, code: RowCode | None = None
    ) -> None:
        stored = RemoteRows(scanners, places, padded(size))
        rows, length = (stored, size) if code is None else (CodedRows(stored, code), int(code.bases.shape[2]))
        super().__init__(rows, scales, length)
        self._scanners = scanners
        self._members = [members(code, place) for place in places]

    @classmethod
    def of_bundle(
        cls, bundle: Path, manifest: Manifest, shards: int, scanners_of: Callable[[Sequence[Shard]], Scanners]
    ) -> ShardedIndex:
        """Divides the rows of a bundle, which are compared with their checksum; ``wait`` comes before any search.

        Raises:
            CorruptBundleError: The rows are not those of the manifest.
        """
        scales = read_scales(bundle / SCALES)
        code = read_code(bundle / CODE) if manifest.row_groups else None
        size = manifest.embedding_size
        parts = divided(bundle, manifest, len(scales.norms), 2 * padded(size), shards)
        return cls(scanners_of(parts), [part.place for part in parts], scales, size, code)

    def wait(self, patience_s: float) -> None:
        """Waits until all rows are loaded; see `Scanners.wait`."""
        self._scanners.wait(patience_s)

    @override
    def check_rows(self, rows: Sequence[int]) -> None:
        # Scanners hold copies, compared with their checksum: nobody overwrites them.
        return

    @override
    def check(self) -> None:
        self._scanners.check()

    @override
    def scan(
        self,
        directions: Tensor,
        lengths: Sequence[int],
        eligible: Sequence[Tensor | None],
        measures: Sequence[Measure],
    ) -> PendingScan:
        requests = self._requests(directions, lengths, eligible, measures)
        return _Asked(self, self._scanners.begin("scan", {n: (each,) for n, each in enumerate(requests)}), measures)

    def more(self, query: Query, end: End, count: int) -> Candidates:
        """See `PendingScan.more`."""
        requests = self._requests(query.direction[None], [count], [query.eligible], [end[0]])
        answers = self._scanners.begin("more", {n: (each, end, count) for n, each in enumerate(requests)})()
        return self.merged(answers)

    def merged(self, answers: Answers) -> Candidates:
        """Candidates of all rows from those of each shard."""
        parts = [answers[number] for number in range(len(self._members))]
        rows = np.concatenate([_numbers(own, part.rows) for own, part in zip(self._members, parts, strict=True)], 2)
        exact = np.concatenate([part.exact for part in parts], axis=2)
        order = np.argsort(rows, axis=2)
        beyond = np.max([part.beyond for part in parts], axis=0)
        return Candidates(np.take_along_axis(rows, order, 2), np.take_along_axis(exact, order, 2), beyond)

    def _requests(
        self,
        directions: Tensor,
        lengths: Sequence[int],
        eligible: Sequence[Tensor | None],
        measures: Sequence[Measure],
    ) -> list[ScanRequest]:
        """One for each shard; equal filters of several queries are sent once."""
        different = {id(mask): mask for mask in eligible if mask is not None}
        numbers = {key: number for number, key in enumerate(different)}
        mask_of = [None if mask is None else numbers[id(mask)] for mask in eligible]
        asked = directions.float().cpu().numpy()
        return [
            ScanRequest(asked, lengths, [_packed(mask, own) for mask in different.values()], mask_of, measures)
            for own in self._members
        ]


@dataclass(frozen=True)
class _Asked:
    """A `PendingScan` with the scanners."""

    index: ShardedIndex
    answers: Callable[[], Answers]
    measures: Sequence[Measure]

    def read(self) -> Candidates:
        return self.index.merged(self.answers())

    def more(self, place: int, query: Query, end: End, count: int) -> Candidates:
        return self.index.more(query, end, count)


def _numbers(own: slice | Tensor, rows: Places) -> Places:
    """Rows of the whole by their numbers within a shard."""
    found: Places = rows + own.start if isinstance(own, slice) else own.numpy()[rows]
    return found


def _packed(mask: Tensor, own: slice | Tensor) -> Bits:
    return np.packbits(mask[own].numpy())
