"""One shard's rows in the memory of one process, and what is asked of them: an actor on a cluster, or any object."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proponent.allocator import keep_freed_memory
from proponent.errors import CorruptBundleError, MismatchError
from proponent.index.bundle import CODE, ROWS, SCALES, Manifest, read_manifest
from proponent.index.row_code import CodedRows, RowCode, read_code
from proponent.index.row_store import ResidentRows
from proponent.index.rows import InfluenceIndex, map_codes, read_scales
from proponent.index.scan import Candidates, End, Query
from proponent.index.searchable import RowScales
from proponent.options import Measure
from proponent.shards.shard import Shard
from proponent.single_precision import single_precision

Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class ScanRequest:
    """What one pass is asked for.

    Attributes:
        directions: Unit queries, [B, K] float32.
        lengths: Of the lists of each.
        masks: Different sets of rows that may appear, each packed into bits.
        mask_of: Which one counts for each query; None for all rows.
        measures: Of which lists are wanted.
    """

    directions: NDArray[np.float32]
    lengths: Sequence[int]
    masks: Sequence[Bits]
    mask_of: Sequence[int | None]
    measures: Sequence[Measure]

    def eligible(self, count: int) -> list[Tensor | None]:
        """Rows that may appear for each query, of so many."""
        masks = [torch.from_numpy(np.unpackbits(bits, count=count).astype(bool)) for bits in self.masks]
        return [None if number is None else masks[number] for number in self.mask_of]


class Scanner:
    """A shard of a bundle; ``load`` comes first, all other methods speak of places and rows within the shard.

    Args:
        threads: Of each product.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._loaded: Shard | None = None

    def load(self, shard: Shard) -> None:
        """Reads the shard's rows into memory; does nothing where they are there.

        Raises:
            CorruptBundleError: The bundle cannot be read here, or its rows are not those that were divided.
            MismatchError: Another bundle lies at its place.
        """
        if self._loaded == shard:
            return
        bundle = Path(shard.bundle)
        manifest = read_manifest(bundle)
        if manifest.digest != shard.digest:
            raise MismatchError(
                f"{bundle} holds bundle {manifest.digest[:12]} on the node of a scanner, expected {shard.digest[:12]}"
            )
        codes = _read(bundle, manifest, shard)
        code = read_code(bundle / CODE) if manifest.row_groups else None
        self._codes, self._index = ResidentRows(codes), _index_of(codes, code, shard, bundle, manifest)
        self._loaded = shard

    def ping(self) -> None:
        """Returns."""

    def scan(self, request: ScanRequest) -> Candidates:
        """Candidates of a batch, by rows within the shard; see `SearchableRows.scan`."""
        directions, eligible = tensor_of(request.directions), request.eligible(len(self._index))
        with single_precision():
            return self._index.scan(directions, request.lengths, eligible, request.measures).read()

    def more(self, request: ScanRequest, end: End, count: int) -> Candidates:
        """More candidates of one query at one end; see `PendingScan.more`."""
        [direction], [mask] = tensor_of(request.directions), request.eligible(len(self._index))
        query = Query(direction, 1.0, count, mask)
        with single_precision():
            found = self._index.scan(direction[None], [1], [mask], request.measures)
            return found.more(0, query, end, count)

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float16]:
        """Rows as they are stored, [n, padded K]."""
        found: NDArray[np.float16] = self._codes.take(tensor_of(places)).numpy()
        return found

    def between(self, place: slice) -> NDArray[np.float16]:
        """Neighbouring rows as they are stored."""
        found: NDArray[np.float16] = self._codes.between(place).numpy()
        return found

    def products(self, queries: NDArray[np.float32], place: slice, precise: bool) -> NDArray[np.float32]:
        """Of queries [B, padded K] with neighbouring rows, [B, n]; see `RowStore.products`."""
        with single_precision():
            found: NDArray[np.float32] = self._codes.products(tensor_of(queries), place, precise=precise).numpy()
        return found

    def exact_products(
        self, queries: NDArray[np.float64], owners: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Of rows [n] with the queries of their owners; see `RowStore.exact_products`."""
        asked = (tensor_of(each) for each in (queries, owners, places))
        found: NDArray[np.float64] = self._codes.exact_products(*asked).numpy()
        return found

    def whole_sums(self, digits: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `RowStore.whole_sums`."""
        found: NDArray[np.int64] = self._codes.whole_sums(tensor_of(digits)).numpy()
        return found


def members(code: RowCode | None, place: slice) -> slice | Tensor:
    """Rows of a stretch of the container, ascending."""
    return place if code is None else code.order[place].sort().values


def tensor_of(array: NDArray[Any]) -> Tensor:
    """An array as a tensor; what came from another process may not be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _read(bundle: Path, manifest: Manifest, shard: Shard) -> Tensor:
    """The rows of a shard in memory of this process, which nobody overwrites."""
    mapping, codes = map_codes(bundle / ROWS, shard.count, manifest.embedding_size)
    own = codes[shard.place].clone()
    del codes, mapping
    found = hashlib.sha256(own.numpy().data).hexdigest()
    if found != shard.sha256:
        raise CorruptBundleError(
            f"rows {shard.place.start} to {shard.place.stop - 1} of {bundle / ROWS} have SHA-256 {found[:16]}... on "
            f"the node of their scanner, expected {shard.sha256[:16]}...",
            field=ROWS,
        )
    return own


def _index_of(codes: Tensor, code: RowCode | None, shard: Shard, bundle: Path, manifest: Manifest) -> InfluenceIndex:
    rows, size = members(code, shard.place), manifest.embedding_size
    scales = RowScales(**{name: column[rows] for name, column in vars(read_scales(bundle / SCALES)).items()})
    if code is None:
        return InfluenceIndex(None, ResidentRows(codes), scales, size)
    own = RowCode(code.bases, code.groups[rows])
    return InfluenceIndex(None, CodedRows(ResidentRows(codes), own), scales, int(code.bases.shape[2]), size)
