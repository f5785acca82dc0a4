"""Intervals of metrics that are means over two things at once: queries, and models retrained for all of them.

All queries share the retrained models, so a bootstrap over queries alone says how the figure would change with other
queries and the *same* models. Both are drawn again here, rows and columns of the same table (the pigeonhole
bootstrap, Owen 2007, which errs on the wide side), and the spread is used as a standard error with Student's quantile
of the smaller side: percentiles of a bootstrap of eight columns are too narrow. The figure itself is not corrected: a
rank correlation of few models is a little too small (0.45 of eight where it is 0.50 of thousands).
"""

from __future__ import annotations

from collections.abc import Callable
from math import atanh, pi, sqrt, tan, tanh
from statistics import NormalDist

import torch
from torch import Tensor

DRAWS = 500
_LARGEST = 1 - 1e-9

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Maps two tables [Q, S, ...] to one figure."""


def two_way_interval(
    statistic: Statistic, left: Tensor, right: Tensor, *, correlation: bool, draws: int = DRAWS
) -> tuple[float, float]:
    """95 % interval of ``statistic(left, right)`` for other queries and other retrained models.

    Args:
        statistic: The figure.
        left: [Q, S, ...], one row for each query and one column for each retrained model.
        right: The same.
        correlation: Whether the figure lies in -1..1; the interval then does too (Fisher's z).
        draws: Bootstrap samples; seeded.

    Returns:
        Lower and upper end; infinite, or -1 and 1, where a side has a single member and nothing can be said.
    """
    forth, back = (_z, tanh) if correlation else (float, float)
    queries, models = left.shape[:2]
    if models < 2:
        return back(float("-inf")), back(float("inf"))
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        rows = torch.randint(queries, (queries,), generator=generator)[:, None]
        columns = torch.randint(models, (models,), generator=generator)
        found.append(forth(float(statistic(left[rows, columns], right[rows, columns]))))
    smaller = min(size for size in (queries, models) if size > 1)
    error = float(torch.tensor(found, dtype=torch.float64).std()) * sqrt(smaller / (smaller - 1))
    middle, width = forth(float(statistic(left, right))), student_quantile(smaller - 1) * error
    return back(middle - width), back(middle + width)


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, to 0.2 % (Abramowitz & Stegun 1964, 26.7.5).

    >>> round(student_quantile(7), 3)
    2.365
    """
    if freedom == 1:
        return tan(pi * 0.475)
    if freedom == 2:
        return 0.95 * sqrt(2 / (4 * 0.975 * 0.025))
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term * float(freedom) ** -power for power, term in enumerate(terms))


def _z(correlation: float) -> float:
    return atanh(max(-_LARGEST, min(_LARGEST, correlation)))


def auc_interval(auc: Callable[[Tensor, Tensor], float], scores: Tensor, positive: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of an AUC for other examples of the same trained model; scores, positive [N]."""
    generator = torch.Generator().manual_seed(0)
    sides = (positive.nonzero().flatten(), (~positive).nonzero().flatten())
    found = []
    for _ in range(DRAWS):
        drawn = torch.cat([side[torch.randint(len(side), (len(side),), generator=generator)] for side in sides])
        found.append(auc(scores[drawn], positive[drawn]))
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high
