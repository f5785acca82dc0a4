"""Rows that hold fewer numbers than a query: each is coded in the basis of its group of rows.

A row's unit vector is ``c_i V_g``, with the orthonormal rows of its group's V_g [K, W], and so as long as its code
c_i. A product with a query is ``(V_g q) . c_i``: the query is shortened once for each group, and the rows of a
group, which lie side by side in the container, are scanned as any others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from proponent.errors import CorruptBundleError
from proponent.index.row_store import RowStore
from proponent.index.tensor_file import save_tensors
from proponent.single_precision import single_precision

SPANNED = 1e-9
"""Share of the sum of the singular values below which one is the rounding of others."""


@dataclass(frozen=True)
class RowCode:
    """Which basis each row is coded in.

    Attributes:
        bases: V, [G, K, W] float32.
        groups: Of each row, [N] int64 in 0..G-1.
    """

    bases: Tensor
    groups: Tensor

    @cached_property
    def order(self) -> Tensor:
        """The rows as they lie in the container, group by group, [N] int64."""
        return self.groups.argsort(stable=True)

    @cached_property
    def places(self) -> Tensor:
        """Where each row lies in the container, [N] int64."""
        return self.order.argsort()

    def ranges(self) -> list[tuple[int, slice]]:
        """The groups that have rows, and where these lie in the container."""
        ends = torch.bincount(self.groups, minlength=len(self.bases)).cumsum(0).tolist()
        pairs = enumerate(zip([0, *ends[:-1]], ends, strict=True))
        return [(group, slice(start, end)) for group, (start, end) in pairs if end > start]

    def lift(self, codes: Tensor, groups: Tensor) -> Tensor:
        """Vectors [n, W] float32 of codes [n, K] of some rows' groups [n]."""
        found = codes.new_zeros(len(codes), self.bases.shape[2], dtype=torch.float32)
        for group in torch.unique(groups).tolist():
            own = (groups == group).nonzero().flatten()
            with single_precision():
                found[own] = codes[own].float() @ self.bases[group]
        return found

    def to(self, device: torch.device) -> RowCode:
        """The same on another device."""
        return RowCode(self.bases.to(device), self.groups.to(device))


def write_code(path: Path, code: RowCode) -> None:
    """Writes a code as safetensors."""
    save_tensors({"bases": code.bases, "groups": code.groups}, path)


def read_code(path: Path) -> RowCode:
    """Reads a code.

    Raises:
        CorruptBundleError: The file cannot be read, or does not hold one.
    """
    try:
        content = load_file(path)
        bases, groups = content["bases"], content["groups"]
    except (SafetensorError, OSError, KeyError) as error:
        raise CorruptBundleError(f"the rows' code cannot be read: {path}: {error}", field=path.name) from error
    for found, name, dtype, dimensions in ((bases, "bases", torch.float32, 3), (groups, "groups", torch.int64, 1)):
        if found.dtype != dtype or found.ndim != dimensions:
            raise CorruptBundleError(
                f"the rows' code has {name} of {found.dtype} and shape {list(found.shape)}, expected {dimensions} "
                f"dimensions of {dtype}: {path}",
                field=path.name,
            )
    if not bool(((groups >= 0) & (groups < len(bases))).all()):
        raise CorruptBundleError(f"rows are coded in bases that are missing: {path}", field=path.name)
    if not bool(torch.isfinite(bases).all()):
        raise CorruptBundleError(f"the rows' code holds numbers that are not finite: {path}", field=path.name)
    return RowCode(bases, groups)


class CodedRows(RowStore):
    """Rows of a container that holds codes, group by group.

    Args:
        codes: The container's rows.
        code: Of the same rows.
    """

    def __init__(self, codes: RowStore, code: RowCode) -> None:
        self._codes = codes
        self._code = code.to(codes.device)
        self._places, self._ranges = code.places.to(codes.device), code.ranges()
        self.device = codes.device
        self.is_resident = codes.is_resident

    @override
    def __len__(self) -> int:
        return len(self._codes)

    @property
    @override
    def width(self) -> int:
        return int(self._code.bases.shape[2])

    @override
    def is_coarse(self, count: int) -> bool:
        return self._codes.is_coarse(count)

    @override
    def products(self, queries: Tensor, place: slice = slice(None), *, precise: bool = False) -> Tensor:
        short = self._shortened(queries).transpose(0, 1)
        short = torch.nn.functional.pad(short, (0, self._codes.width - short.shape[2]))
        parts = [self._codes.products(short[group], where, precise=precise) for group, where in self._ranges]
        return torch.cat(parts, dim=1).index_select(1, self._places[place])

    @override
    def take(self, rows: Tensor) -> Tensor:
        there = rows.to(self.device)
        codes = self._codes.take(self._places[there])[:, : self._code.bases.shape[1]]
        return self._code.lift(codes, self._code.groups[there])

    @override
    def between(self, place: slice) -> Tensor:
        return self.take(torch.arange(len(self))[place])

    @override
    def exact_products(self, queries: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        # One by one: several are rounded differently together.
        short = torch.cat([self._shortened(query[None]) for query in queries.float()])
        own = owners * short.shape[1] + self._code.groups[rows]
        return self._codes.exact_products(short.flatten(0, 1).double(), own, self._places[rows])

    def _shortened(self, queries: Tensor) -> Tensor:
        """V_g q of each group, [B, G, K], by one product."""
        bases = self._code.bases
        with single_precision():
            return (queries @ bases.flatten(0, 1).mT).view(len(queries), *bases.shape[:2])

    @override
    def weighted_sum(self, weights: Tensor) -> Tensor:
        ordered = weights[self._code.order.cpu()]
        total = torch.zeros(self.width, dtype=torch.float64)
        for group, where in self._ranges:
            inside = ordered.new_zeros(len(ordered))
            inside[where] = ordered[where]
            codes = self._codes.weighted_sum(inside)[: self._code.bases.shape[1]]
            total += codes @ self._code.bases[group].double().cpu()
        return total

    @override
    def stored(self, keep: Tensor) -> Iterator[Tensor]:
        return self._codes.stored(keep[self._code.order.cpu()])

    def code_without(self, keep: Tensor) -> RowCode:
        """The code of the rows that ``keep`` [N] bool names, on the host.

        A group with fewer rows left than a basis has keeps no direction but theirs: the others are those of the rows
        that went.
        """
        kept, size = keep[self._code.order.cpu()], self._code.bases.shape[1]
        bases = self._code.bases.cpu().clone()
        for group, where in self._ranges:
            left = kept[where]
            if not bool(left.all()) and int(left.sum()) < size:
                codes = self._codes.between(where).cpu()[left][:, :size].double()
                bases[group] = (_projector(codes) @ bases[group].double()).float()
        return RowCode(bases, self._code.groups.cpu()[keep])


def _projector(codes: Tensor) -> Tensor:
    """Onto the span of [n, K], [K, K]."""
    _, values, directions = torch.linalg.svd(codes, full_matrices=False)
    spanned = directions[values > SPANNED * values.sum()]
    projector: Tensor = spanned.mT @ spanned
    return projector
