"""What DIVINE chooses from: candidates with their influences, and the RBF kernel of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from proponent.bounds.cancellation import checkpoint

MEDIAN_SAMPLE = 128
_BLOCKS = 5
_LEAST = torch.finfo(torch.float32).tiny
"""Of a squared bandwidth: a smaller one would be 0, and the kernel of equal rows 0 / 0."""


@dataclass(frozen=True)
class Domain:
    """D where it is not the pool.

    Attributes:
        size: |D|.
        blocks: Gives its rows as blocks [n, K] float32, anew at every call.
    """

    size: int
    blocks: Callable[[], Iterable[Tensor]]


def median_bandwidth(rows: Tensor) -> float:
    """Median distance of the pairs among (at most 128, evenly spaced) unit rows [n, K]; 1 where that is 0."""
    step = max(1, -(-len(rows) // MEDIAN_SAMPLE))
    sample = rows[::step]
    if len(sample) < 2:
        return 1.0
    above = torch.triu_indices(len(sample), len(sample), 1, device=rows.device)
    products = (sample @ sample.mT)[above[0], above[1]]
    return float((2 - 2 * products).clamp(min=0).median().sqrt()) or 1.0


def rbf(left: Tensor, right: Tensor, bandwidth: float) -> Tensor:
    """Kernel of unit rows [n, K] and [m, K], [n, m] float32."""
    return _kernel_of(left @ right.mT, bandwidth)


def _kernel_of(products: Tensor, bandwidth: float) -> Tensor:
    return products.sub_(1).clamp_(max=0).div_(max(bandwidth * bandwidth, _LEAST)).exp_()


class Pool:
    """The candidates, strongest first, and their kernel; every entry of it is computed at most once.

    Args:
        influences: I of each candidate over the largest, [n] float64, positive where it argues for the end chosen
            from, never increasing.
        rows: Unit rows of the candidates, [n, K] float32.
        bandwidth: sigma.
        domain: D; None where it is the pool.
    """

    def __init__(self, influences: Tensor, rows: Tensor, bandwidth: float, domain: Domain | None = None) -> None:
        self.influences = influences
        self.rows = rows
        self._bandwidth = bandwidth
        self._domain = domain
        self._columns: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.influences)

    def column(self, candidate: int) -> Tensor:
        """``k(u, v)`` of one candidate v and every candidate u, [n] float64."""
        if candidate not in self._columns:
            one = self.rows[candidate : candidate + 1]
            self._columns[candidate] = rbf(self.rows, one, self._bandwidth)[:, 0].double()
        return self._columns[candidate]

    @cached_property
    def domain_kernel(self) -> Tensor:
        """``k(u, v)`` of every candidate v and every u in D, [n, |D|] float32; held as a whole."""
        if self._domain is None:
            return _kernel_of(_gram(self.rows), self._bandwidth)
        kernel, stop = self.rows.new_empty(len(self), self._domain.size), 0
        for block in self._domain.blocks():
            start, stop = stop, stop + len(block)
            kernel[:, start:stop] = rbf(self.rows, block, self._bandwidth)
        return kernel

    @cached_property
    def domain_sums(self) -> Tensor:
        """``sum_{u in D} k(u, v)`` of every candidate v, [n] float64, from the kernel that is held."""
        return self.domain_kernel.sum(dim=1, dtype=torch.float64)

    @cached_property
    def domain_means(self) -> Tensor:
        """``(1/|D|) sum_{u in D} k(u, v)`` of every candidate v, [n] float64; D is read and not held."""
        if self._domain is None:
            return self.domain_sums / len(self)
        total = torch.zeros_like(self.influences)
        for block in self._domain.blocks():
            total += rbf(block, self.rows, self._bandwidth).sum(dim=0).double()
        return total / self._domain.size

    def mean_similarity(self, chosen: Sequence[int]) -> float:
        """Mean of ``k(u, v)`` over the pairs of different members; 0 where there is no pair."""
        if len(chosen) < 2:
            return 0.0
        rows = self.rows[list(chosen)]
        kernel = rbf(rows, rows, self._bandwidth).double()
        return float((kernel.sum() - kernel.trace()) / (len(chosen) * (len(chosen) - 1)))


def _gram(rows: Tensor) -> Tensor:
    """``rows rows^T`` [n, n] from the blocks on and above the diagonal."""
    size = max(1, -(-len(rows) // _BLOCKS))
    gram = rows.new_empty(len(rows), len(rows))
    for start in range(0, len(rows), size):
        checkpoint()
        stop = start + size
        torch.mm(rows[start:stop], rows[start:].mT, out=gram[start:stop, start:])
        gram[stop:, start:stop] = gram[start:stop, stop:].mT
    return gram
