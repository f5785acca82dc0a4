"""From a few seeds to a verdict: intervals of means, and claims that may be undecided."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch

from proponent.audit.intervals import student_quantile


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval of a mean of few values (Student)."""
    data = torch.tensor(values, dtype=torch.float64)
    return float(data.mean()), student_quantile(len(data) - 1) * float(data.std()) / sqrt(len(data))


def above(values: Sequence[float]) -> bool | None:
    """Whether a mean lies above zero; None where its interval holds zero."""
    mean, half = interval(values)
    return None if abs(mean) <= half else mean > 0


def both(*verdicts: bool | None) -> bool | None:
    """Whether all hold; None where none fails and one is not decided."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def shorter(time: float, other: float) -> bool | None:
    """Whether a time is shorter than another; None where they differ by less than a fifth."""
    return None if abs(time - other) < 0.2 * max(time, other) else time < other
