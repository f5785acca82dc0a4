"""Training rows on disk, and products with them.

Rows are unit vectors u_i in fp16 inside a FAISS flat container, padded with zeros to a multiple of 16
numbers, memory-mapped and shared by all workers. Each measure is the cosine-like product x_i = q . u_i
times one scale per row, so one product serves them all (see ``search``).

This is the only file that imports faiss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from proponent.cuda_graphs import Replay
from proponent.errors import CorruptBundleError
from proponent.index.bundle import CODE, ROWS, SCALES, Manifest
from proponent.index.row_code import CodedRows, RowCode, read_code
from proponent.index.row_store import HALF_ERROR, SINGLE_ERROR, RowStore, place_rows
from proponent.index.scan import PendingScan, scan
from proponent.index.searchable import RowScales, SearchableRows
from proponent.index.tensor_file import save_tensors
from proponent.options import Measure

PADDING = 16
UNIT_ERROR = 1.0e-2
"""Bound on |norm - 1| of a unit vector that was rounded to fp16, with room to spare."""
# Scales below this are scanned as if they were this large: float32 would lose them. Their bounds are upper ones only.
TINY = 1.0e-30


def padded(size: int) -> int:
    """The container's row length for an embedding of ``size`` numbers."""
    return -(-size // PADDING) * PADDING


def write_rows(path: Path, blocks: Iterable[Tensor], size: int) -> int:
    """Writes unit rows given as [n, size] blocks, one after the other; returns how many."""
    count = 0
    with path.open("wb") as file:
        file.write(_container_header(0, size))
        for block in blocks:
            codes = np.zeros((len(block), padded(size)), dtype=np.float16)
            codes[:, :size] = block.cpu().numpy()
            file.write(codes.tobytes())
            count += len(block)
        file.seek(0)
        file.write(_container_header(count, size))
    return count


def _container_header(count: int, size: int) -> bytes:
    """What FAISS writes before the codes of a flat fp16 container of so many rows.

    FAISS itself can only write what it holds in memory. Its last field is the number of bytes of the codes.
    """
    index = faiss.IndexScalarQuantizer(padded(size), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.ntotal = count
    header: bytes = faiss.serialize_index(index).tobytes()
    return header[:-8] + (2 * count * padded(size)).to_bytes(8, "little")


def write_scales(path: Path, scales: RowScales) -> None:
    """Writes the row scales as safetensors."""
    save_tensors(scales.columns(), path)


def read_scales(path: Path) -> RowScales:
    """Reads the row scales.

    Raises:
        CorruptBundleError: The file cannot be read or lacks a column.
    """
    try:
        return RowScales.from_columns(load_file(path))
    except (SafetensorError, OSError, KeyError) as error:
        raise CorruptBundleError(f"row scales cannot be read: {path}: {error}", field=path.name) from error


class InfluenceIndex(SearchableRows):
    """The rows and scales of a bundle in the memory of this process or of its GPU.

    Args:
        index: FAISS fp16 container; kept so that the mapping stays alive.
        rows: Its rows, where they are multiplied.
        scales: Row scales.
        size: Numbers of a query.
        row_size: Numbers of a row in the container; those of a query where rows are not coded.
    """

    def __init__(self, index: Any, rows: RowStore, scales: RowScales, size: int, row_size: int | None = None) -> None:
        super().__init__(rows, scales, size)
        self._index = index
        self.row_size = size if row_size is None else row_size
        self._scanned = _scanned(self.exact_scales).to(rows.device)
        self._replay = Replay.on(rows.device) if rows.is_resident else None

    @classmethod
    def open(
        cls,
        rows: Path,
        scales: Path,
        size: int,
        device: torch.device | None = None,
        budget: int | None = None,
        code: RowCode | None = None,
    ) -> InfluenceIndex:
        """Maps the rows of a bundle whose checksums have been verified.

        Args:
            rows: The container.
            scales: The row scales.
            size: K, the numbers of a row.
            device: Where products are computed; by default the processor, on the pages of the file.
            budget: Bytes of the device's memory for rows, scales and products, see `place_rows`.
            code: Of the rows, where they hold fewer numbers than a query.

        Raises:
            CorruptBundleError: A file does not have the shape that the manifest promises.
            UnavailableError: The device has too little memory even for streamed rows.
        """
        row_scales = read_scales(scales)
        index, codes = map_codes(rows, len(row_scales.norms), size)
        placed = place_rows(codes, device or codes.device, budget)
        if code is None:
            return cls(index, placed, row_scales, size)
        if len(code.groups) != len(codes) or code.bases.shape[1] != size:
            raise CorruptBundleError(
                f"{len(codes)} rows have {size} numbers, their code expects {len(code.groups)} of "
                f"{code.bases.shape[1]}: {rows}",
                field=rows.name,
            )
        return cls(index, CodedRows(placed, code), row_scales, int(code.bases.shape[2]), size)

    @classmethod
    def of_bundle(cls, directory: Path, manifest: Manifest, device: torch.device | None = None) -> InfluenceIndex:
        """Maps the rows of a bundle's directory; see `open`."""
        code = read_code(directory / CODE) if manifest.row_groups else None
        return cls.open(directory / ROWS, directory / SCALES, manifest.embedding_size, device, code=code)

    @override
    def check_rows(self, rows: Sequence[int]) -> None:
        norms = self.unit_rows(rows).norm(dim=1).cpu()
        wrong = (~((norms - 1).abs() < UNIT_ERROR)).nonzero().flatten().tolist()
        if wrong:
            raise CorruptBundleError(
                f"row {rows[wrong[0]]} has norm {float(norms[wrong[0]]):.3g}, expected 1: the rows were overwritten",
                field=ROWS,
            )

    @override
    def check(self) -> None:
        # What this process holds is there.
        return

    def scanned_scales(self, measures: Sequence[Measure]) -> Tensor:
        """The exact scales of some measures in float32 on the device, none of them rounded to zero, [M, N]."""
        if tuple(measures) == tuple(Measure):
            # As they are: a copy made by one thread would be read by all from its cache.
            return self._scanned
        # No list of numbers as an index: it would have to be copied to the device.
        return torch.stack([self._scanned[list(Measure).index(measure)] for measure in measures])

    @override
    def scan(
        self,
        directions: Tensor,
        lengths: Sequence[int],
        eligible: Sequence[Tensor | None],
        measures: Sequence[Measure],
    ) -> PendingScan:
        return scan(self, directions, lengths, eligible, measures, self._replay)

    def product_error(self, count: int) -> float:
        """Bound on the error of ``products`` of so many queries."""
        return HALF_ERROR if self._rows.is_coarse(count) else SINGLE_ERROR

    def write_without(self, path: Path, keep: Tensor) -> None:
        """Writes a container like the one opened, of the rows alone that ``keep`` [N] bool names."""
        write_rows(path, (block[:, : self.row_size] for block in self._rows.stored(keep)), self.row_size)

    def code_without(self, keep: Tensor) -> RowCode | None:
        """The code of the rows that ``keep`` [N] bool names; None where rows are not coded."""
        return self._rows.code_without(keep) if isinstance(self._rows, CodedRows) else None


def map_codes(path: Path, count: int, size: int) -> tuple[Any, Tensor]:
    """Maps a container.

    Args:
        path: Of the container.
        count: N, its rows.
        size: Numbers of a row.

    Returns:
        What keeps the mapping alive, and the rows [N, padded size] float16.

    Raises:
        CorruptBundleError: It is not one of this shape.
    """
    index = _map(path)
    if index.d != padded(size) or count != index.ntotal:
        raise CorruptBundleError(
            f"rows have {index.ntotal} x {index.d} numbers, expected {count} x {padded(size)}: {path}",
            field=path.name,
        )
    flat = torch.from_numpy(faiss.rev_swig_ptr(index.codes.data(), index.codes.size()))
    if flat.numel() != 2 * index.ntotal * index.d:
        raise CorruptBundleError(f"rows are not in half precision: {path}", field=path.name)
    return index, flat.view(torch.float16).view(index.ntotal, index.d)


def _scanned(scale: Tensor) -> Tensor:
    """Scales as the scan uses them, float32; only those that are zero become zero."""
    return torch.where(scale > 0, scale.clamp(min=TINY), 0.0).float()


def _map(path: Path) -> Any:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptBundleError(f"rows cannot be read: {path}: {error}", field=path.name) from error
