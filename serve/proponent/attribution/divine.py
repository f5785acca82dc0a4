r"""DIVINE: training examples that are influential and differ from each other (Bhatt et al. 2021).

Greedy maximisation of the thesis' eq. 13, ``I(S) + gamma R(S)``, over sets S of k candidates, where I(S) is the sum
of the scores of S over the largest score of the pool (negated for opponents), and R(S) one of three terms of the RBF
kernel ``k(u, v) = exp(-||u - v||^2 / (2 sigma^2)) = exp((u . v - 1) / sigma^2)`` on unit rows:

* sum-redundancy, ``kappa - sum_{u, v in S} k(u, v)``; the constant kappa changes no choice and is left out.
  Submodular because k >= 0, but not monotone. All marginal gains change by one kernel column per choice, so
  that updating all of them costs no more than a lazy bound would save.
* facility location, ``sum_{u in D} max_{v in S} k(u, v)``: submodular and monotone, hence chosen lazily (Minoux
  1978), and the result is worth at least (1 - 1/e) of the best set's (Nemhauser et al. 1978).
* maximum mean discrepancy, ``c1 sum_{u in D, v in S} k(u, v) - c2 sum_{u, v in S} k(u, v)`` with
  ``c1 = 2 / (n |S|)``, ``c2 = 1 / |S|^2``, n = |D|: not submodular in general, no bound is claimed.

D is the candidate pool, or all training rows.

**One scale for gamma.** As written the terms have sizes of their own: facility location grows with |D|,
sum-redundancy with k^2, MMD stays below 1. So both sides are measured by what can be had: with T the k strongest
candidates and A the set chosen for R alone, gamma multiplies ``(R(S) - R(T)) / (R(A) - R(T))`` beside
``(I(S) - I(A)) / (I(T) - I(A))``. At gamma = 1 plain top-k and diversity alone are then worth the same, whatever the
term, D, bandwidth and k. ``Selection`` with ``unscaled`` keeps the paper's form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.candidate_pool import Pool
from proponent.bounds.cancellation import checkpoint

_AT_ONCE = 8
SEARCH_STEPS = 12


class Term(ABC):
    """R(S) as S grows from nothing, one candidate at a time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.value = 0.0

    @abstractmethod
    def gains(self) -> Tensor:
        """``R(S + v) - R(S)`` of each candidate v, or an upper bound of it, [n] float64."""

    @abstractmethod
    def add(self, pick: int) -> None:
        """S grows by a candidate; ``value`` becomes its R."""

    def best(self, influences: Tensor, gamma: float, taken: Sequence[int]) -> int:
        """The candidate of the largest ``influences + gamma gain`` that is not taken; the first of equals."""
        return _best(influences + gamma * self.gains(), taken)


class SumRedundancy(Term):
    """``-sum_{u, v in S} k(u, v)``."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._within = torch.zeros_like(pool.influences)

    @override
    def gains(self) -> Tensor:
        return -(1 + 2 * self._within)

    @override
    def add(self, pick: int) -> None:
        self.value -= 1 + 2 * float(self._within[pick])
        self._within += self.pool.column(pick)


class MeanDiscrepancy(Term):
    """``2 / |S| sum_{v in S} mean_{u in D} k(u, v) - 1 / |S|^2 sum_{u, v in S} k(u, v)``."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._within = torch.zeros_like(pool.influences)
        self._count, self._covered, self._inside = 0, 0.0, 0.0

    def _after(self) -> Tensor:
        count = self._count + 1
        return 2 * (self._covered + self.pool.domain_means) / count - (self._inside + 1 + 2 * self._within) / count**2

    @override
    def gains(self) -> Tensor:
        return self._after() - self.value

    @override
    def add(self, pick: int) -> None:
        self.value = float(self._after()[pick])
        self._count += 1
        self._covered += float(self.pool.domain_means[pick])
        self._inside += 1 + 2 * float(self._within[pick])
        self._within += self.pool.column(pick)


class FacilityLocation(Term):
    """``sum_{u in D} max_{v in S} k(u, v)``.

    A gain can only shrink as S grows, so the one of an earlier round bounds it: only candidates whose bound leads
    are computed again, some at a time.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._kernel = pool.domain_kernel
        self._cover = torch.zeros_like(self._kernel[0])
        self._bounds = pool.domain_sums.clone()
        self._stale = torch.zeros_like(self._bounds, dtype=torch.bool)
        self.computed = 0

    @override
    def gains(self) -> Tensor:
        return self._bounds

    @override
    def add(self, pick: int) -> None:
        self._cover = torch.maximum(self._cover, self._kernel[pick])
        self.value = float(self._cover.sum(dtype=torch.float64))
        self._stale.fill_(True)

    @override
    def best(self, influences: Tensor, gamma: float, taken: Sequence[int]) -> int:
        at_once = _AT_ONCE
        while True:
            checkpoint()
            bounds = influences + gamma * self._bounds
            best = _best(bounds, taken)
            if not self._stale[best]:
                return best
            stale = torch.where(self._stale, bounds, -torch.inf)
            self._compute(stale.topk(min(at_once, len(stale))).indices)
            at_once *= 2

    def _compute(self, leading: Tensor) -> None:
        gains = self._kernel[leading].sub_(self._cover).clamp_(min=0).sum(dim=1, dtype=torch.float64)
        self._bounds[leading] = torch.minimum(self._bounds[leading], gains)
        self._stale[leading] = False
        self.computed += len(leading)


def greedy(pool: Pool, term: Term, k: int, gamma: float, influence_weight: float = 1.0) -> list[int]:
    """Greedy choice of at most k candidates by ``influence_weight I(S) + gamma R(S)``, from a fresh term.

    Returns:
        Positions in the order chosen; the first of equals wins.
    """
    chosen: list[int] = []
    influences = influence_weight * pool.influences
    for _ in range(min(k, len(pool))):
        checkpoint()
        chosen.append(term.best(influences, gamma, chosen))
        term.add(chosen[-1])
    return chosen


@dataclass(frozen=True)
class Choice:
    """A set of candidates and what it is worth.

    Attributes:
        members: Positions in the pool, strongest first.
        influence: I(S), the sum over the members.
        diversity: R(S), without sum-redundancy's constant.
    """

    members: tuple[int, ...]
    influence: float
    diversity: float


class Selection:
    """Choices of k from one pool by one term.

    Args:
        pool: The candidates.
        term: Which R.
        k: Length of a list.
        unscaled: Whether gamma multiplies R as the paper writes it; else see the module.

    Attributes:
        plain: T, the k strongest.
        alone: A, chosen for R alone.
    """

    def __init__(self, pool: Pool, term: Callable[[Pool], Term], k: int, *, unscaled: bool = False) -> None:
        self.pool = pool
        self._term = term
        self._k = min(k, len(pool))
        self.plain = self._choice(range(self._k))
        self.alone = self._choice(greedy(pool, term(pool), self._k, 1.0, 0.0))
        self._weight = (lambda gamma: (1.0, gamma)) if unscaled else self._scaled

    def _scaled(self, gamma: float) -> tuple[float, float]:
        """What I and R are multiplied by; a side that is the same at both ends does not count."""
        influence = self.plain.influence - self.alone.influence
        diversity = self.alone.diversity - self.plain.diversity
        if diversity <= 0:
            return 1.0, 0.0
        return (0.0, 1.0) if influence <= 0 else (1.0, gamma * influence / diversity)

    def at(self, gamma: float) -> Choice:
        """The best by ``I(S) + gamma R(S)`` of the greedy choice, plain top-k and diversity alone."""
        if gamma == 0:
            return self.plain
        weights = self._weight(gamma)
        found = self._choice(greedy(self.pool, self._term(self.pool), self._k, weights[1], weights[0]))
        return max((found, self.plain, self.alone), key=lambda c: weights[0] * c.influence + weights[1] * c.diversity)

    def kept(self, choice: Choice) -> float:
        """I(S) / I(T), the share of plain top-k's influence that a choice keeps; 1 where there is none."""
        return choice.influence / self.plain.influence if self.plain.influence else 1.0

    def gained(self, choice: Choice) -> float:
        """``(R(S) - R(T)) / (R(A) - R(T))``: 0 for plain top-k, 1 for what R alone reaches; 0 where that is T."""
        attainable = self.alone.diversity - self.plain.diversity
        return (choice.diversity - self.plain.diversity) / attainable if attainable > 0 else 0.0

    def within(self, max_loss: float) -> Choice:
        """The most diverse choice found that keeps at least ``1 - max_loss`` of plain top-k's influence.

        Looks for the largest gamma whose choice keeps that much, in a fixed number of steps. Plain top-k always does.
        """
        tried = [self.plain, self.alone]
        low, high, gamma = 0.0, float("inf"), 1.0
        for _ in range(SEARCH_STEPS):
            tried.append(self.at(gamma))
            if self.kept(tried[-1]) >= 1 - max_loss:
                low = gamma
            else:
                high = gamma
            gamma = 4 * gamma if high == float("inf") else gamma / 4 if low == 0 else (low * high) ** 0.5
        return max((c for c in tried if self.kept(c) >= 1 - max_loss), key=lambda choice: choice.diversity)

    def _choice(self, members: Iterable[int]) -> Choice:
        ordered, term = tuple(sorted(members)), self._term(self.pool)
        for member in ordered:
            term.add(member)
        return Choice(ordered, float(self.pool.influences[list(ordered)].sum()), term.value)


def _best(values: Tensor, taken: Sequence[int]) -> int:
    """The first of the largest values; those taken are out."""
    values = values.clone()
    values[list(taken)] = -torch.inf
    return int((values == values.max()).nonzero()[0])
