"""From figures to verdicts: intervals of means, and rules that say yes, no, or that the figures do not decide.

Every rule can give all three: True where an interval lies on the claim's side of a bound, False where it lies on the
other, None where it holds the bound. That nothing changes is a claim too, and needs a margin, given beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from proponent.audit.intervals import student_quantile

Ends = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval of a mean of few values (Student)."""
    data = torch.tensor(values, dtype=torch.float64)
    return float(data.mean()), student_quantile(len(data) - 1) * float(data.std()) / sqrt(len(data))


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Case by case."""
    return [one - other for one, other in zip(first, second, strict=True)]


def ends(values: Sequence[float]) -> Ends:
    """The same interval by its ends."""
    mean, half = interval(values)
    return mean - half, mean + half


def share_ends(share: float, count: int) -> Ends:
    """95 % interval of a share of ``count`` cases (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.975)
    middle, width = share + z**2 / (2 * count), z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - width) / (1 + z**2 / count), (middle + width) / (1 + z**2 / count)


def exceeds(found: Ends, bound: float = 0.0) -> bool | None:
    """Whether an interval lies above a bound; None where it holds the bound."""
    low, high = found
    return None if low <= bound <= high else low > bound


def above(values: Sequence[float], bound: float = 0.0) -> bool | None:
    """Whether a mean lies above a bound; None where its interval holds the bound."""
    return exceeds(ends(values), bound)


def at_most(values: Sequence[float], margin: float) -> bool | None:
    """Whether a mean lies below a margin: that it is not above zero would be said by any few values."""
    return opposite(above(values, margin))


def within(found: Ends, low: float, high: float) -> bool | None:
    """Whether an interval lies between two bounds (equivalence); None where it holds one of them."""
    return both(exceeds(found, low), opposite(exceeds(found, high)))


def both(*verdicts: bool | None) -> bool | None:
    """Whether all hold; None where none fails and one is not decided."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def either(*verdicts: bool | None) -> bool | None:
    """Whether one holds; None where none does and one is not decided."""
    return opposite(both(*map(opposite, verdicts)))


def opposite(verdict: bool | None) -> bool | None:
    """Whether what was judged does not hold."""
    return None if verdict is None else not verdict


def unanimous(facts: Sequence[bool]) -> bool | None:
    """What all say; None where they differ."""
    return facts[0] if len(set(facts)) == 1 else None


def shorter(time: float, other: float) -> bool | None:
    """Whether a time is shorter than another; None where they differ by less than a fifth."""
    return None if abs(time - other) < 0.2 * max(time, other) else time < other


def slope(places: Sequence[float], values: Tensor) -> Tensor:
    """Slope [...] of values [..., D] on D places, by least squares."""
    centred = torch.tensor(places, dtype=torch.float64)
    centred = centred - centred.mean()
    found: Tensor = values.double() @ centred / centred.square().sum()
    return found
