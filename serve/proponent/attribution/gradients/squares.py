"""Sums of squares of float32 numbers, fast and without losing small ones; float64."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_norms(values: Tensor) -> Tensor:
    """Of each entry of the first dimension, [B, ...] to [B]; entries below 1e-19 throughout count as zero."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.double().square()


def summed_squares(values: Tensor) -> Tensor:
    """Sum over the first dimension, [B, ...] to [...].

    The values are divided by the largest of them first, so that squares of small numbers do not underflow; a
    sum in float64 from the start would take several times as long.
    """
    largest = torch.maximum(values.amax(), -values.amin()).clamp(min=torch.finfo(values.dtype).tiny)
    return (values / largest).square_().sum(dim=0).double() * largest.double().square()
