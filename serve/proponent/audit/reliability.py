"""How far retrained models' losses repeat, which bounds the linear datamodeling score of any method.

The losses of a half-subset are a mean over training seeds, and other seeds would give another mean. Two groups of
seeds are correlated over the subsets; the Spearman-Brown formula (Spearman 1910, Brown 1910) takes that to the mean
over all seeds, and a score that knew the expected losses would correlate with the measured ones by the square root of
it (Spearman's correction for attenuation, 1904).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, islice
from math import sqrt

import torch
from torch import Tensor

from proponent.attribution.agreement import spearman

_MOST_SPLITS = 70


@dataclass(frozen=True)
class Reliability:
    """Of losses that are means over training seeds.

    Attributes:
        halves: Rank correlation over subsets of two equal groups of seeds, mean over queries and splits, -1..1.
        ceiling: The linear datamodeling score that no method exceeds but by luck, 0..1.
    """

    halves: float
    ceiling: float


def reliability(losses: Tensor) -> Reliability | None:
    """How far the mean over seeds repeats; None for a single seed, of which nothing can be said.

    Args:
        losses: [R, S, Q], of R training seeds for each of S subsets on Q queries.
    """
    seeds = len(losses)
    if seeds < 2:
        return None
    size = seeds // 2
    found = [
        float(spearman(losses[list(left)].mean(dim=0).mT, losses[_rest(left, seeds, size)].mean(dim=0).mT).mean())
        for left in islice(combinations(range(seeds), size), _MOST_SPLITS)
    ]
    halves = float(torch.tensor(found, dtype=torch.float64).mean())
    return Reliability(halves, _ceiling(halves, size, seeds))


def _rest(left: tuple[int, ...], seeds: int, size: int) -> list[int]:
    return [seed for seed in range(seeds) if seed not in left][:size]


def _ceiling(halves: float, size: int, seeds: int) -> float:
    """By the reliability of a single seed; 0 where the halves do not agree at all."""
    single = max(halves, 0.0) / (size - (size - 1) * max(halves, 0.0))
    return sqrt(seeds * single / (1 + (seeds - 1) * single))
