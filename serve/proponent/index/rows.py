"""Training rows on disk and the scan over them: one pass, three measures, both ends.

Rows are unit vectors u_i in fp16 inside a FAISS flat container, padded with zeros to a multiple of 16
numbers, memory-mapped and shared by all workers. Each measure is the cosine-like product x_i = q . u_i
times one scale per row, so one product serves them all. The product only finds candidates; winners are
computed again from the fp16 rows with float64 accumulation, and ties are broken by row number.

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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from proponent.errors import CorruptBundleError
from proponent.index.selection import largest
from proponent.results import Measure

PADDING = 16
BLOCK = 2048
# Bound on |approximate - exact| product of unit vectors: fp16 rounding of the query (2^-11) and fp16-tile
# accumulation; checked by a test against float64.
PRODUCT_ERROR = 2.0e-3
# Scales below this are scanned as if they were this large: float32 would lose them. Their bounds are upper ones only.
TINY = 1.0e-30
SCORED_AT_ONCE = 1 << 16
SIGNS = (1.0, -1.0)
SPARE = 22
"""Rows beyond k that are computed exactly, so that a look past the end of a list is rarely needed."""

End = tuple[Measure, float]
Shortlist = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RowScales:
    """What turns a product of unit vectors into a score; [N] float64 unless said otherwise.

    The two RelatIF scales are kept as ratios: the norms they come from may be too small to be divided later.

    Attributes:
        norms: r_i = ||phi_i||.
        self_influence: s_i = g_i^T C^-1 g_i.
        relative_theta: r_i / ||C^-1 g_i||.
        relative_l: r_i / sqrt(s_i).
        directed: bool; rows without a direction take no part in the RelatIF measures.
        curvature: What the example's own loss adds to the curvature along u_i, see ``attribution.groups``.
    """

    norms: Tensor
    self_influence: Tensor
    relative_theta: Tensor
    relative_l: Tensor
    directed: Tensor
    curvature: Tensor

    def of(self, measure: Measure) -> Tensor:
        """Scale of each row, [N] float64; 0 for rows that the measure leaves out."""
        if measure is Measure.INFLUENCE:
            return self.norms
        ratio = self.relative_theta if measure is Measure.THETA_RELATIF else self.relative_l
        return torch.where(self.directed, ratio, torch.zeros_like(ratio))


@dataclass(frozen=True)
class Hits:
    """The strongest rows of one end of one measure, strongest first."""

    rows: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Query:
    """One query of a batch.

    Attributes:
        direction: phi / ||phi||, [K] float32.
        norm: ||phi||, a Python float (may be tiny).
        k: Length of each list.
        eligible: [N] bool, or None for all rows.
    """

    direction: Tensor
    norm: float
    k: int
    eligible: Tensor | None = None


def padded(size: int) -> int:
    """The container's row length for an embedding of ``size`` numbers."""
    return -(-size // PADDING) * PADDING


def write_rows(path: Path, blocks: Iterable[Tensor], size: int) -> int:
    """Writes unit rows given as [n, size] blocks; returns how many."""
    index = faiss.IndexScalarQuantizer(padded(size), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for block in blocks:
        codes = np.zeros((len(block), padded(size)), dtype=np.float16)
        codes[:, :size] = block.cpu().numpy()
        index.add_sa_codes(codes.view(np.uint8))
    faiss.write_index(index, str(path))
    return int(index.ntotal)


def write_scales(path: Path, scales: RowScales) -> None:
    """Writes the row scales as safetensors."""
    save_file({name: value.contiguous() for name, value in vars(scales).items()}, path)


def read_scales(path: Path) -> RowScales:
    """Reads the row scales.

    Raises:
        CorruptBundleError: The file cannot be read or lacks a column.
    """
    try:
        return RowScales(**load_file(path))
    except (SafetensorError, OSError, TypeError) as error:
        raise CorruptBundleError(f"row scales cannot be read: {path}: {error}", field=path.name) from error


class InfluenceIndex:
    """The rows and scales of a bundle, ready to be searched.

    Args:
        index: FAISS fp16 container; kept so that the mapping stays alive.
        codes: [N, padded K] float16 view of its codes (on the device that scans).
        scales: Row scales.
        size: K, the embedding's own size.
    """

    def __init__(self, index: Any, codes: Tensor, scales: RowScales, size: int) -> None:
        self._index = index
        self._codes = codes
        self.scales = scales
        self.size = size
        self._exact_scales = {m: scales.of(m) for m in Measure}
        self._weights = {m: _scanned(scales.of(m)).to(codes.device) for m in Measure}

    @classmethod
    def open(cls, rows: Path, scales: Path, size: int, device: torch.device | None = None) -> InfluenceIndex:
        """Maps the rows of a bundle whose checksums have been verified.

        Raises:
            CorruptBundleError: A file does not have the shape that the manifest promises.
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
        return cls(index, codes.to(device or codes.device), row_scales, size)

    def __len__(self) -> int:
        return int(self._codes.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the product is computed."""
        return self._codes.device

    def unit_rows(self, rows: Sequence[int]) -> Tensor:
        """Unit rows as stored, [n, K] float32."""
        chosen = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        return self._codes[chosen, : self.size].float()

    def blocks(self, weights: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Unit rows in order, [n, K] float32, and where each block lies; blocks of zero weight are skipped."""
        for start in range(0, len(self), BLOCK):
            place = slice(start, min(start + BLOCK, len(self)))
            if weights is None or bool(weights[place].any()):
                yield place, self._codes[place, : self.size].float()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """``sum_i w_i u_i``, [K] float64, for weights [N]."""
        total = torch.zeros(self.size, dtype=torch.float64)
        for place, rows in self.blocks(weights):
            total += (weights[place].to(rows) @ rows).cpu()
        return total

    def weighted_product(self, weights: Tensor, vector: Tensor) -> Tensor:
        """``sum_i w_i u_i (u_i . v)``, [K] float64, for weights [N] and v [K], in one pass."""
        total = torch.zeros(self.size, dtype=torch.float64)
        narrow = vector.to(self.device, torch.float32)
        for place, rows in self.blocks(weights):
            total += ((weights[place].to(rows) * (rows @ narrow)) @ rows).cpu()
        return total

    def products(self, directions: Tensor) -> Tensor:
        """Products of unit queries [B, K] with every row, [B, N] float32, by matrix product."""
        query = torch.nn.functional.pad(directions.to(self.device), (0, self._codes.shape[1] - self.size))
        if len(query) == 1:
            return torch.mv(self._codes, query[0].half()).float()[None]
        return _blocked_product(self._codes, query.float())

    def products_by_faiss(self, directions: Tensor) -> Tensor:
        """The same by FAISS, [B, N] float32: the independent check of ``products``."""
        query = torch.nn.functional.pad(directions.cpu().float(), (0, self._index.d - self.size)).numpy()
        scores, rows = self._index.search(np.ascontiguousarray(query), len(self))
        out = torch.empty(scores.shape)
        return out.scatter_(1, torch.from_numpy(rows), torch.from_numpy(scores))

    def scores(self, query: Query, rows: Sequence[int], measure: Measure) -> list[float]:
        """Exact scores of named rows (float64 accumulation over the stored fp16 rows)."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        return self._weighted(self._exact(query, chosen), query, chosen, measure).tolist()

    def search(
        self, queries: Sequence[Query], measures: Sequence[Measure]
    ) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
        """For each query and measure the proponents (scores > 0) and the opponents (scores < 0)."""
        products = self.products(torch.stack([query.direction for query in queries]))
        allowed = self._allowed(queries)
        count = min(max(query.k for query in queries) + SPARE, len(self))
        shortlists: dict[End, Shortlist] = {}
        for sign in SIGNS:
            reach = torch.add(PRODUCT_ERROR, products, alpha=sign)
            for measure in measures:
                bounds = (
                    reach * self._weights[measure] if allowed is None else reach * self._weights[measure] * allowed
                )
                shortlists[measure, sign] = largest(bounds, count)
        return [self._hits(query, products[b], b, shortlists, measures) for b, query in enumerate(queries)]

    def _allowed(self, queries: Sequence[Query]) -> Tensor | None:
        """1 where a row may appear, [B, N] float32; None where nothing is filtered."""
        if all(query.eligible is None for query in queries):
            return None
        everything = torch.ones(len(self), dtype=torch.bool)
        masks = [everything if query.eligible is None else query.eligible for query in queries]
        return torch.stack(masks).to(self.device, torch.float32)

    def _hits(
        self,
        query: Query,
        products: Tensor,
        number: int,
        shortlists: Mapping[End, Shortlist],
        measures: Sequence[Measure],
    ) -> Mapping[Measure, tuple[Hits, Hits]]:
        """Both ends of every measure of one query; the exact products of all shortlists in one gather."""
        chosen = {end: rows[number].cpu() for end, (_, rows) in shortlists.items()}
        gathered = self._exact(query, torch.cat(list(chosen.values()))).view(len(chosen), -1)
        exact = dict(zip(chosen, gathered, strict=True))
        found: dict[End, Hits] = {}
        for end, rows in chosen.items():
            beyond = float(shortlists[end][0][number, -1])
            hits, enough = self._best(query, rows, exact[end], end, beyond)
            found[end] = hits if enough else self._widened(query, products, end, len(rows))
        return {measure: (found[measure, 1.0], found[measure, -1.0]) for measure in measures}

    def _best(self, query: Query, rows: Tensor, exact: Tensor, end: End, beyond: float) -> tuple[Hits, bool]:
        """The strongest of a shortlist, ties by row, and whether no row outside it (bound ``beyond``) can matter."""
        measure, sign = end
        scores = (sign * self._weighted(exact, query, rows, measure)).tolist()
        allowed = [True] * len(scores) if query.eligible is None else query.eligible[rows].tolist()
        listed = zip(scores, rows.tolist(), allowed, strict=True)
        kept = sorted((-score, row) for score, row, may in listed if may and score > 0)[: query.k]
        weakest = -kept[-1][0] / query.norm if len(kept) == query.k and query.norm > 0 else 0.0
        enough = len(rows) == len(self) or beyond <= 0 or weakest > beyond
        return Hits(rows=[row for _, row in kept], scores=[-sign * value for value, _ in kept]), enough

    def _widened(self, query: Query, products: Tensor, end: End, count: int) -> Hits:
        """The same from ever longer shortlists: near-ties at the end of the list, or scales beyond float32."""
        measure, sign = end
        bounds = torch.add(PRODUCT_ERROR, products, alpha=sign) * self._weights[measure]
        if query.eligible is not None:
            bounds *= query.eligible.to(bounds)
        while True:
            count = min(4 * count, len(self))
            values, rows = bounds.topk(count)
            chosen = rows.cpu()
            hits, enough = self._best(query, chosen, self._exact(query, chosen), end, float(values[-1]))
            if enough:
                return hits

    def _exact(self, query: Query, rows: Tensor) -> Tensor:
        """Products with stored rows, [n] float64."""
        direction = query.direction.to(self.device).double()
        # A sum row by row: a matrix product rounds a row differently with other rows beside it.
        parts = [
            (self._codes[chosen.to(self.device), : self.size].double() * direction).sum(dim=1).cpu()
            for chosen in torch.split(rows, SCORED_AT_ONCE)
        ]
        return torch.cat(parts)

    def _weighted(self, exact: Tensor, query: Query, rows: Tensor, measure: Measure) -> Tensor:
        return exact * self._exact_scales[measure][rows] * query.norm


def _scanned(scale: Tensor) -> Tensor:
    """Scales as the scan uses them, float32; only those that are zero become zero."""
    return torch.where(scale > 0, scale.clamp(min=TINY), 0.0).float()


def _map(path: Path) -> Any:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptBundleError(f"rows cannot be read: {path}: {error}", field=path.name) from error


def _blocked_product(codes: Tensor, queries: Tensor, block: int = BLOCK) -> Tensor:
    """[B, N] products in float32; rows are widened block by block so that they stay in cache."""
    if codes.device.type == "cuda":
        return queries.half() @ codes.T
    out = torch.empty(len(queries), len(codes))
    for start in range(0, len(codes), block):
        torch.mm(queries, codes[start : start + block].float().T, out=out[:, start : start + block])
    return out
