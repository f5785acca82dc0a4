r"""DIVINE: training examples that are influential and differ from each other (Bhatt et al. 2021).

Greedy maximisation of the thesis' eq. 13, ``I(S) + gamma R(S)``, where I(S) is the sum of the scores of S over
the largest score of the pool (negated for opponents), and R(S) one of three terms of the RBF kernel
``k(u, v) = exp(-||u - v||^2 / (2 sigma^2)) = exp((u . v - 1) / sigma^2)`` on unit rows:

* sum-redundancy, ``kappa - sum_{u, v in S} k(u, v)``; the constant kappa changes no choice and is left out.
  Submodular because k >= 0, but not monotone. All marginal gains change by one kernel column per choice, so
  that updating all of them costs no more than a lazy bound would save.
* facility location, ``sum_{u in D} max_{v in S} k(u, v)``: submodular and monotone, hence chosen lazily (Minoux
  1978), and the result is worth at least (1 - 1/e) of the best set's (Nemhauser et al. 1978).
* maximum mean discrepancy, ``c1 sum_{u in D, v in S} k(u, v) - c2 sum_{u, v in S} k(u, v)`` with
  ``c1 = 2 / (n |S|)``, ``c2 = 1 / |S|^2``, n = |D|: not submodular in general, no bound is claimed.

D is the candidate pool, or all training rows. The terms keep the thesis' scale: facility location grows with
|D| and MMD does not, so a gamma belongs to one term.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from typing_extensions import override

MEDIAN_SAMPLE = 128
_BLOCKS = 5
_AT_ONCE = 128

Blocks = Callable[[], Iterable[Tensor]]
"""Gives the rows of D as blocks [n, K] float32, anew at every call."""


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
    return products.sub_(1).clamp_(max=0).div_(bandwidth * bandwidth).exp_()


class Domain(ABC):
    """D, as the candidates see it."""

    size: int

    @abstractmethod
    def sums(self) -> Tensor:
        """``sum_{u in D} k(u, v)`` of each candidate v, [n] float64."""

    @abstractmethod
    def columns(self, chosen: Tensor) -> Tensor:
        """``k(u, v)`` of some candidates v for every u in D, [b, |D|] float32, as a copy."""


class PoolDomain(Domain):
    """D is the pool itself: its kernel matrix is made once, half of it by symmetry."""

    def __init__(self, candidates: Tensor, bandwidth: float) -> None:
        self.size = len(candidates)
        self._kernel = _kernel_of(_gram(candidates), bandwidth)

    @override
    def sums(self) -> Tensor:
        return self._kernel.sum(dim=0).double()

    @override
    def columns(self, chosen: Tensor) -> Tensor:
        return self._kernel[chosen]


class StreamedDomain(Domain):
    """D is read block by block and never held: columns are made when asked for."""

    def __init__(self, candidates: Tensor, bandwidth: float, blocks: Blocks) -> None:
        self._candidates = candidates
        self._bandwidth = bandwidth
        self._blocks = blocks
        self._sums = candidates.new_zeros(len(candidates), dtype=torch.float64)
        self.size = 0
        for block in blocks():
            self._sums += rbf(block, candidates, bandwidth).sum(dim=0)
            self.size += len(block)

    @override
    def sums(self) -> Tensor:
        return self._sums

    @override
    def columns(self, chosen: Tensor) -> Tensor:
        rows = self._candidates[chosen]
        return torch.cat([rbf(rows, block, self._bandwidth) for block in self._blocks()], dim=1)


def sum_redundancy(influences: Tensor, candidates: Tensor, k: int, gamma: float, bandwidth: float) -> list[int]:
    """Greedy choice of k positions by ``I(S) - gamma sum_{u, v in S} k(u, v)``.

    Args:
        influences: Scaled I of each candidate, [n] float64, positive where it argues for the end chosen from.
        candidates: Unit rows, [n, K] float32.
        k: At most this many.
        gamma: Weight >= 0.
        bandwidth: sigma.

    Returns:
        Positions in the order chosen; the first of equals wins.
    """
    within = torch.zeros_like(influences)
    chosen: list[int] = []
    for _ in range(min(k, len(influences))):
        chosen.append(_best(influences - gamma * (1 + 2 * within), chosen))
        within += rbf(candidates, candidates[chosen[-1:]], bandwidth)[:, 0]
    return chosen


def mean_discrepancy(
    influences: Tensor, candidates: Tensor, k: int, gamma: float, bandwidth: float, domain: Domain
) -> list[int]:
    """Greedy choice by ``I(S) + gamma R_MMD(S)``; see ``sum_redundancy``."""
    sums = domain.sums()
    within = torch.zeros_like(influences)
    chosen: list[int] = []
    covered, inside = 0.0, 0.0
    for count in range(1, min(k, len(influences)) + 1):
        value = 2 * (covered + sums) / (domain.size * count) - (inside + 1 + 2 * within) / count**2
        pick = _best(influences + gamma * value, chosen)
        chosen.append(pick)
        covered += float(sums[pick])
        inside += 1 + 2 * float(within[pick])
        within += rbf(candidates, candidates[pick : pick + 1], bandwidth)[:, 0]
    return chosen


def facility_location(influences: Tensor, k: int, gamma: float, domain: Domain) -> list[int]:
    """Lazy greedy choice by ``I(S) + gamma R_FL(S)``; see ``sum_redundancy``.

    A gain can only shrink as S grows, so the one of an earlier round bounds it: only candidates whose bound
    leads are computed again, some at a time.
    """
    bounds = influences + gamma * domain.sums()
    cover = torch.zeros((), device=influences.device)
    chosen: list[int] = []
    while len(chosen) < min(k, len(influences)):
        pick = _leader(influences, bounds, gamma, domain, cover, chosen)
        chosen.append(pick)
        cover = torch.maximum(cover, domain.columns(torch.tensor([pick]))[0])
    return chosen


def _leader(
    influences: Tensor, bounds: Tensor, gamma: float, domain: Domain, cover: Tensor, chosen: list[int]
) -> int:
    """The candidate of the largest gain; ``bounds`` are made tighter on the way."""
    stale = torch.full_like(bounds, bool(chosen), dtype=torch.bool)
    while True:
        best = _best(bounds, chosen)
        if not stale[best]:
            return best
        leading = torch.where(stale, bounds, -torch.inf).topk(min(_AT_ONCE, len(bounds))).indices
        gains = domain.columns(leading).sub_(cover).clamp_(min=0).sum(dim=1).double()
        bounds[leading] = torch.minimum(bounds[leading], influences[leading] + gamma * gains)
        stale[leading] = False


def _best(values: Tensor, chosen: list[int]) -> int:
    """The first of the largest values; those chosen are out."""
    values[chosen] = -torch.inf
    return int((values == values.max()).nonzero()[0])


def _gram(rows: Tensor) -> Tensor:
    """``rows rows^T`` [n, n] from the blocks on and above the diagonal."""
    size = max(1, -(-len(rows) // _BLOCKS))
    gram = rows.new_empty(len(rows), len(rows))
    for start in range(0, len(rows), size):
        stop = start + size
        torch.mm(rows[start:stop], rows[start:].mT, out=gram[start:stop, start:])
        gram[stop:, start:stop] = gram[start:stop, stop:].mT
    return gram
