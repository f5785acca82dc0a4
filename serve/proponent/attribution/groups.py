r"""What the removal of a group of training examples would change, in the coordinates of the embedding.

Let S be the group, p = |S| / N, phi_i the training rows and ``B`` the map with phi = B^T g, so that the curvature
is the identity in the embedding. A shift a in R^K stands for the change of parameters B a; a function f whose
gradient embeds as phi_f changes by phi_f . a.

Retraining minimises the *mean* loss of the others plus the same weight decay, and its gradient where the whole
objective's stood is ``-(1/(1 - p)) (1/N) sum_{i in S} (g_i - mean_j g_j)``, whether that was a minimum or not. With
m the mean row over all training examples and H_i the curvature of one example in the embedding:

**First order** keeps the curvature as it is: ``a = (1/(1 - p)) (1/N) sum_{i in S} (phi_i - m)``. The mean row enters
because the others' mean gives every one of them more weight; at a minimum it is minus the weight decay's gradient,
so that it vanishes without weight decay only.

**The sum of influences** (Koh & Liang 2017; the thesis' I/N, eq. 5) is ``a = (1/N) sum_{i in S} phi_i``. It predicts
another retraining: one whose others keep their weight 1/N each, so that the weight decay counts for 1/(1 - p) as
much against them. It is additive over groups.

**Second order** is one Newton step on the objective that retraining minimises (Basu et al. 2020b keep the first
term of its series),

    a = A^{-1} (1/N) sum_{i in S} (phi_i - m),   A = (1 - p) I - (1/N) sum_{i in S} (H_i - mean_j H_j).

An index holds no H_i, but a part of it: with c_i = p_i / (1 - p_i), p_i the probability
of example i's own label, ``H_i >= c_i phi_i phi_i^T`` (Cauchy-Schwarz on the output Hessian diag(p) - p p^T; an
equality for two classes). A puts ``c_i phi_i phi_i^T`` in place of H_i in *both* sums, which leaves only the
difference between the group's and the population's remainders unknown and keeps A positive definite.

For an EK-FAC embedding the identity stands for its own curvature, whose second stage weighs a row by (1 - p_i)
instead of p_i (1 - p_i), so that A is positive definite there too; the estimate is as rough as the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from proponent.attribution.losses import BinaryCrossEntropy, CrossEntropy, Loss
from proponent.attribution.solvers import cg
from proponent.bounds.cancellation import checkpoint

TOLERANCE = 1.0e-4
MAX_ITERATIONS = 50
SAMPLE = 8192
"""Rows that the others' mean curvature is taken over: it only enters times the share removed."""
_BLOCK = 2048
_HELD = 256 << 20
"""Bytes of gathered rows that are kept between iterations; more are gathered again each time."""


class UnitRows(Protocol):
    """The unit rows u_i of an index."""

    @property
    def size(self) -> int:
        """K."""

    def __len__(self) -> int: ...

    def unit_rows(self, rows: Tensor) -> Tensor:
        """Some rows by their positions [m], [m, K] float32."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """``sum_i w_i u_i``, [K] float64, for weights [n] float64."""


@dataclass(frozen=True)
class Population:
    """What all rows have in common; found once for an index.

    Attributes:
        mean: m, the mean of the rows phi_i, [K] float64.
        sample: Positions of the rows that the mean curvature is taken over, [m] int64.
    """

    mean: Tensor
    sample: Tensor

    @classmethod
    def of(cls, rows: UnitRows, norms: Tensor) -> Population:
        """Of rows with norms ||phi_i||, [n] float64; the sample is seeded."""
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:SAMPLE]
        return cls(rows.weighted_sum(norms / len(rows)), drawn.sort().values)


def own_curvature(loss: Loss, scale: Tensor) -> Tensor:
    """``c (1 - p)^2 = p (1 - p)`` of each example, for output gradients scaled to a largest entry of 1.

    Args:
        loss: For cross-entropy of any kind the largest entry of the output gradient is 1 - p; another loss is
            given no curvature of its own (then A = (1 - p) I, the population's curvature).
        scale: That entry, [B] float64.

    Returns:
        [B] float64.
    """
    if isinstance(loss, CrossEntropy | BinaryCrossEntropy):
        return scale * (1 - scale)
    return torch.zeros_like(scale)


def influence_sum_shift(rows: UnitRows, norms: Tensor, members: Tensor, train_size: int) -> Tensor:
    """``(1/N) sum_{i in S} phi_i``, [K] float64: nobody else's weight changes.

    Args:
        rows: The rows of the index.
        norms: ||phi_i||, [n] float64.
        members: S, [n] bool.
        train_size: N, the examples that the model was trained on; an index that has forgotten some holds fewer.
    """
    group, total = members.nonzero().flatten(), torch.zeros(rows.size, dtype=torch.float64)
    for part in torch.split(group, _BLOCK):
        checkpoint()
        block = rows.unit_rows(part)
        total += ((norms[part] / train_size).to(block) @ block).cpu()
    return total


def first_order_shift(
    rows: UnitRows, norms: Tensor, members: Tensor, train_size: int, population: Population
) -> Tensor:
    """``(1/(1 - p)) (1/N) sum_{i in S} (phi_i - m)``, [K] float64: the others' mean loss, with the curvature of all.

    Args:
        rows: As in ``influence_sum_shift``, like ``norms`` and ``train_size``.
        norms: [n] float64.
        members: [n] bool, not all of them.
        train_size: N.
        population: Of the same rows.
    """
    share = int(members.sum()) / train_size
    return _centred_sum(rows, norms, members, train_size, population) / (1 - share)


def _centred_sum(rows: UnitRows, norms: Tensor, members: Tensor, train_size: int, population: Population) -> Tensor:
    """``(1/N) sum_{i in S} (phi_i - m)``, [K] float64."""
    share = int(members.sum()) / train_size
    return influence_sum_shift(rows, norms, members, train_size) - share * population.mean


def second_order_shift(
    rows: UnitRows, norms: Tensor, curvature: Tensor, members: Tensor, train_size: int, population: Population
) -> Tensor:
    """The Newton step of the module's docstring, [K] float64; population means are those of the rows held.

    Args:
        rows: As in ``influence_sum_shift``, like ``norms`` and ``train_size``.
        norms: [n] float64.
        curvature: ``c_i ||phi_i||^2``, [n] float64.
        members: [n] bool, not all of them.
        train_size: N.
        population: Of the same rows.
    """
    group, others = members.nonzero().flatten(), population.sample[~members[population.sample]]
    held, share = len(group) / len(members), len(group) / train_size
    # The group as it is, and a sample of the others: one that lacked heavy rows of the group could make A indefinite.
    own, rest = curvature[group], curvature[others] * (len(group) / max(len(others), 1))
    weights = torch.cat([own, -rest]) * (1 - held) / train_size
    curved = weights != 0
    weights, gathered = weights[curved], _gathered(rows, torch.cat([group, others])[curved])

    def product(vector: Tensor) -> Tensor:
        total, narrow, start = (1 - share) * vector, vector.float(), 0
        for block in gathered():
            checkpoint()
            some = weights[start : start + len(block)].to(block)
            start += len(block)
            total -= ((some * (block @ narrow.to(block.device))) @ block).cpu()
        return total

    right = _centred_sum(rows, norms, members, train_size, population)
    # Rounding may make the smallest eigenvalue of A negative; what was found until then is kept.
    return cg(product, right, tol=TOLERANCE, max_iterations=MAX_ITERATIONS, stop_at_negative=True)[0]


def _gathered(rows: UnitRows, chosen: Tensor) -> Callable[[], Iterable[Tensor]]:
    """Chosen rows block by block, as often as asked for."""
    parts = torch.split(chosen, _BLOCK)
    if 4 * len(chosen) * rows.size > _HELD:
        return lambda: (rows.unit_rows(part) for part in parts)
    held = []
    for part in parts:
        checkpoint()
        held.append(rows.unit_rows(part))
    return lambda: held


def fewest_to_cross(contributions: Tensor, margin: float, limit: int, train_size: int) -> tuple[Tensor, int, float]:
    """The smallest set whose removal brings a margin below zero to first order.

    Under that assumption taking the most negative ones first is optimal (Yang et al. 2023).

    Args:
        contributions: ``f . (phi_i - m) / N`` of each row, f the margin's gradient, [n] float64; k of them together
            change the margin by their sum over 1 - k/N.
        margin: >= 0.
        limit: Largest set, below ``train_size``.
        train_size: N.

    Returns:
        Rows that lower the margin, strongest first and equals in their order, at most ``limit``; how many of them
        suffice (all of them where they do not); and the margin then left, negative when they suffice.
    """
    strongest = contributions.sort(stable=True)
    helpful = strongest.indices[:limit][strongest.values[:limit] < 0]
    kept = 1 - torch.arange(1, len(helpful) + 1, dtype=contributions.dtype) / train_size
    left = margin + strongest.values[: len(helpful)].cumsum(0) / kept
    crossed = (left < 0).nonzero().flatten()
    needed = int(crossed[0]) + 1 if len(crossed) else len(helpful)
    return helpful, needed, float(left[needed - 1]) if needed else margin
