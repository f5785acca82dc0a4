"""Data Shapley (Ghorbani & Zou 2019): in closed form for nearest neighbours, by Monte Carlo for any utility."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Utility = Callable[[Sequence[int]], float]
"""What a model trained on some players, in the order given, is worth."""


def knn_shapley(similarities: Tensor, labels: Tensor, queries: Tensor, k: int) -> Tensor:
    """Shapley values of a k-nearest-neighbour classifier (Jia et al. 2019, theorem 1), averaged over test points.

    The utility of a set is the share, of k, of a test point's k nearest members that have its label; a set of fewer
    than k members counts those it has.

    Args:
        similarities: [Q, N], larger is nearer.
        labels: Of the training examples, [N].
        queries: Labels of the test points, [Q].
        k: Neighbours.

    Returns:
        [N] float64; the sum is the utility of all examples.
    """
    order = similarities.argsort(dim=1, descending=True, stable=True)
    match = (labels[order] == queries[:, None]).double()
    count = match.shape[1]
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    last = match[:, -1:] * min(k, count) / (k * count)
    steps = (match[:, :-1] - match[:, 1:]) / k * (rank[:-1].clamp(max=k) / rank[:-1])
    values = torch.cat([steps.flip(1).cumsum(dim=1).flip(1) + last, last], dim=1)
    return torch.zeros_like(values).scatter_(1, order, values).mean(dim=0)


def truncated_monte_carlo(
    utility: Utility, players: int, permutations: int, *, tolerance: float = 0.0, seed: int = 0
) -> Tensor:
    """Mean marginal contributions over random orders (Ghorbani & Zou 2019, algorithm 1).

    Args:
        utility: Also asked for the empty set.
        players: N.
        permutations: Random orders.
        tolerance: An order is cut off once its utility is this near to that of all players; the rest adds 0.
        seed: Of the orders.

    Returns:
        Marginal contributions by order, [permutations, N] float64; their mean over orders is the value.
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(permutations, players, dtype=torch.float64)
    whole, nothing = utility(range(players)), utility(())
    for contributions in found:
        order = torch.randperm(players, generator=generator).tolist()
        before = nothing
        for count in range(1, players + 1):
            if abs(whole - before) <= tolerance:
                break
            after = utility(order[:count])
            contributions[order[count - 1]] = after - before
            before = after
    return found
