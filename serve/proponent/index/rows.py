"""Training rows on disk, and products with them.

Rows are unit vectors u_i in fp16 inside a FAISS flat container, padded with zeros to a multiple of 16
numbers, memory-mapped and shared by all workers. Each measure is the cosine-like product x_i = q . u_i
times one scale per row, so one product serves them all (see ``search``).

This is the only file that imports faiss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from proponent.bounds.cancellation import checkpoint
from proponent.errors import CorruptBundleError
from proponent.index.bundle import CODE, ROWS, SCALES, Manifest
from proponent.index.row_code import CodedRows, RowCode, read_code
from proponent.index.row_store import BLOCK, HALF_ERROR, SINGLE_ERROR, RowStore, place_rows
from proponent.index.tensor_file import save_tensors
from proponent.options import Measure

PADDING = 16
UNIT_ERROR = 1.0e-2
"""Bound on |norm - 1| of a unit vector that was rounded to fp16, with room to spare."""
# Scales below this are scanned as if they were this large: float32 would lose them. Their bounds are upper ones only.
TINY = 1.0e-30
_STORED_AS = {"has_direction": "directed"}
"""Columns that bundles know by another name."""


@dataclass(frozen=True)
class RowScales:
    """What turns a product of unit vectors into a score; [N] float64 unless said otherwise.

    The two RelatIF scales are kept as ratios: the norms they come from may be too small to be divided later.

    Attributes:
        norms: r_i = ||phi_i||.
        self_influence: s_i = g_i^T C^-1 g_i.
        relative_theta: r_i / ||C^-1 g_i||.
        relative_l: r_i / sqrt(s_i).
        has_direction: bool; rows without a direction take no part in the RelatIF measures.
        curvature: What the example's own loss adds to the curvature along u_i, see ``attribution.groups``.
    """

    norms: Tensor
    self_influence: Tensor
    relative_theta: Tensor
    relative_l: Tensor
    has_direction: Tensor
    curvature: Tensor

    @classmethod
    def from_columns(cls, columns: Mapping[str, Tensor]) -> RowScales:
        """From columns by the names that bundles store."""
        return cls(**{name: columns[_STORED_AS.get(name, name)] for name in cls.__dataclass_fields__})

    def columns(self) -> dict[str, Tensor]:
        """By the names that bundles store."""
        return {_STORED_AS.get(name, name): column for name, column in vars(self).items()}

    def of(self, measure: Measure) -> Tensor:
        """Scale of each row, [N] float64; 0 for rows that the measure leaves out."""
        if measure is Measure.INFLUENCE:
            return self.norms
        ratio = self.relative_theta if measure is Measure.THETA_RELATIF else self.relative_l
        return torch.where(self.has_direction, ratio, torch.zeros_like(ratio))


SCALE_COLUMNS = tuple(_STORED_AS.get(name, name) for name in RowScales.__dataclass_fields__)
"""Names of the scales as bundles store them."""


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


class InfluenceIndex:
    """The rows and scales of a bundle, ready to be searched.

    Args:
        index: FAISS fp16 container; kept so that the mapping stays alive.
        rows: Its rows, where they are multiplied.
        scales: Row scales.
        size: Numbers of a query.
        row_size: Numbers of a row in the container; those of a query where rows are not coded.

    Attributes:
        exact_scales: What turns a product into a score by measure, [N] float64.
    """

    def __init__(self, index: Any, rows: RowStore, scales: RowScales, size: int, row_size: int | None = None) -> None:
        self._index = index
        self._rows = rows
        self.scales = scales
        self.size = size
        self.row_size = size if row_size is None else row_size
        self._exact = torch.stack([scales.of(measure) for measure in Measure])
        self.exact_scales = dict(zip(Measure, self._exact, strict=True))
        self._scanned = _scanned(self._exact).to(rows.device)

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
        index = _map(rows)
        row_scales = read_scales(scales)
        if index.d != padded(size) or len(row_scales.norms) != index.ntotal:
            raise CorruptBundleError(
                f"rows have {index.ntotal} x {index.d} numbers, expected {len(row_scales.norms)} x {padded(size)}: "
                f"{rows}",
                field=rows.name,
            )
        flat = torch.from_numpy(faiss.rev_swig_ptr(index.codes.data(), index.codes.size()))
        if flat.numel() != 2 * index.ntotal * index.d:
            raise CorruptBundleError(f"rows are not in half precision: {rows}", field=rows.name)
        codes = flat.view(torch.float16).view(index.ntotal, index.d)
        placed = place_rows(codes, device or codes.device, budget)
        if code is None:
            return cls(index, placed, row_scales, size)
        if len(code.groups) != index.ntotal or code.bases.shape[1] != size:
            raise CorruptBundleError(
                f"{index.ntotal} rows have {size} numbers, their code expects {len(code.groups)} of "
                f"{code.bases.shape[1]}: {rows}",
                field=rows.name,
            )
        return cls(index, CodedRows(placed, code), row_scales, int(code.bases.shape[2]), size)

    @classmethod
    def of_bundle(cls, directory: Path, manifest: Manifest, device: torch.device | None = None) -> InfluenceIndex:
        """Maps the rows of a bundle's directory; see `open`."""
        code = read_code(directory / CODE) if manifest.row_groups else None
        return cls.open(directory / ROWS, directory / SCALES, manifest.embedding_size, device, code=code)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where the product is computed."""
        return self._rows.device

    def unit_rows(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Unit rows as stored, [n, K] float32."""
        chosen = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        return self._rows.take(chosen)[:, : self.size].float()

    def check_rows(self, rows: Sequence[int]) -> None:
        """Looks whether rows with a direction still are unit vectors.

        Raises:
            CorruptBundleError: One is not: the file was overwritten while it was mapped.
        """
        norms = self.unit_rows(rows).norm(dim=1)
        wrong = (~((norms - 1).abs() < UNIT_ERROR)).nonzero().flatten().tolist()
        if wrong:
            raise CorruptBundleError(
                f"row {rows[wrong[0]]} has norm {float(norms[wrong[0]]):.3g}, expected 1: the rows were overwritten",
                field=ROWS,
            )

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Unit rows in order, [n, K] float32, and where each block lies."""
        for start in range(0, len(self), BLOCK):
            checkpoint()
            place = slice(start, min(start + BLOCK, len(self)))
            yield place, self._rows.between(place)[:, : self.size].float()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """``sum_i w_i u_i``, [K] float64, for weights [N]."""
        return self._rows.weighted_sum(weights)[: self.size]

    def products(self, directions: Tensor, *, precise: bool = False) -> Tensor:
        """Products of unit queries [B, K] with every row, [B, N] float32, by matrix product.

        One query is multiplied in half precision on a processor, which reads the rows once and widens none;
        ``precise`` asks for single precision.
        """
        query = torch.nn.functional.pad(directions.to(self.device), (0, self._rows.width - self.size))
        return self._rows.products(query, precise=precise)

    def scanned_scales(self, measures: Sequence[Measure]) -> Tensor:
        """The exact scales of some measures in float32 on the device, none of them rounded to zero, [M, N]."""
        if tuple(measures) == tuple(Measure):
            # As they are: a copy made by one thread would be read by all from its cache.
            return self._scanned
        return self._scanned[[list(Measure).index(measure) for measure in measures]]

    def scales_at(self, measures: Sequence[Measure], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The exact scales of E measures, one for each column of rows [B, E, c], in that shape."""
        of = np.array([list(Measure).index(measure) for measure in measures])
        found: NDArray[np.float64] = self._exact.numpy()[of[:, None], rows]
        return found

    def product_error(self, count: int) -> float:
        """Bound on the error of ``products`` of so many queries."""
        return HALF_ERROR if self._rows.is_coarse(count) else SINGLE_ERROR

    def exact_products(self, directions: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        """Products of stored rows [n] with the queries [B, K] of their owners [n], whatever is beside them.

        Returns:
            [n] float64, on the device.
        """
        wide, *places = (each.to(self.device) for each in (directions.double(), owners, rows))
        return self._rows.exact_products(wide, *places)

    def write_without(self, path: Path, keep: Tensor) -> None:
        """Writes a container like the one opened, of the rows alone that ``keep`` [N] bool names."""
        write_rows(path, (block[:, : self.row_size] for block in self._rows.stored(keep)), self.row_size)

    def code_without(self, keep: Tensor) -> RowCode | None:
        """The code of the rows that ``keep`` [N] bool names; None where rows are not coded."""
        return self._rows.code_without(keep) if isinstance(self._rows, CodedRows) else None


def _scanned(scale: Tensor) -> Tensor:
    """Scales as the scan uses them, float32; only those that are zero become zero."""
    return torch.where(scale > 0, scale.clamp(min=TINY), 0.0).float()


def _map(path: Path) -> Any:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptBundleError(f"rows cannot be read: {path}: {error}", field=path.name) from error
