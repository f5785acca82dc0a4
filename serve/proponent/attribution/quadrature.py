r"""Sets that represent test data in the Fisher kernel, by sequential Bayesian quadrature (Khanna et al. 2019).

With embeddings phi whose inner product is the kernel, and mu the mean embedding of the test data, a set S with its
best weights explains ``f(S) = z_S^T K_SS^-1 z_S = ||P_S mu||^2`` of ``||mu||^2``, where ``z_i = phi_i . mu`` and P_S
projects on the span of S. Greedy selection takes the row that adds most: after the span of S is taken out of every
row, leaving q_i, that is ``(q_i . mu)^2 / ||q_i||^2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-10
"""Share of a row's square that must lie outside of the span of those chosen for it to add anything."""


def represent(rows: Tensor, mean: Tensor, size: int) -> tuple[list[int], list[float]]:
    """Greedy choice of rows that represent a mean.

    Args:
        rows: Embeddings of the training examples, [N, K].
        mean: Mean embedding of the test data, [K].
        size: How many to choose, at most; fewer where no row adds anything.

    Returns:
        Positions in the order chosen, and the share of ``||mean||^2`` explained after each.
    """
    rest, target = rows.double().clone(), mean.double()
    whole, squares = float(target.square().sum()), rows.double().square().sum(dim=1)
    chosen: list[int] = []
    shares: list[float] = []
    explained = 0.0
    for _ in range(min(size, len(rows))):
        left = rest.square().sum(dim=1)
        able = left > _LEAST * squares
        gains = torch.where(able, (rest @ target).square() / left.clamp(min=torch.finfo(left.dtype).tiny), -1.0)
        best = int(gains.argmax())
        if float(gains[best]) <= 0:
            break
        chosen.append(best)
        explained += float(gains[best])
        shares.append(explained / whole)
        unit = rest[best] / left[best].sqrt()
        rest -= torch.outer(rest @ unit, unit)
    return chosen, shares
