"""Quotients where a divisor may be zero because there is nothing to divide."""

from __future__ import annotations

import torch
from torch import Tensor


def positive_or_one(divisor: Tensor) -> Tensor:
    """The divisor, with 1 where it is not positive: a numerator of zero then stays zero."""
    return torch.where(divisor > 0, divisor, torch.ones_like(divisor))


def ratio(numerator: Tensor, divisor: Tensor) -> Tensor:
    """The quotient, 0 where the divisor is not positive."""
    return torch.where(divisor > 0, numerator / positive_or_one(divisor), 0.0)


def reciprocals(divisors: Tensor) -> Tensor:
    """Of float64 numbers that are not negative, in float32; 0 where they are less than its range, or zero."""
    found = (1 / positive_or_one(divisors)).float()
    return torch.where((divisors > 0) & found.isfinite(), found, 0.0)
