"""The largest entries of long rows, by block maxima: one cheap pass instead of a partial sort."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
FINER = 8
AT_ONCE = 1 << 20
"""Numbers of a temporary: larger ones leave the caches, and the system takes their pages back each time."""
SIGNS = (1.0, -1.0)


def largest(values: Tensor, count: int, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The ``count`` largest entries of each row of [B, N], with their positions; like ``topk``.

    The largest entries lie in the blocks with the largest maxima, so only those blocks are looked into, by
    smaller blocks.
    """
    if values.shape[1] // block <= 2 * count:
        top = values.topk(count, dim=1)
        return top.values, top.indices
    places = candidates(block_maxima(values, block), values.shape[1], count, block)
    found, order = largest(values.gather(1, places), count, max(block // FINER, 2))
    return found, places.gather(1, order)


def strongest_ends(
    products: Tensor, weights: Tensor, slack: float, count: int, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The ``count`` largest upper bounds ``(+-x_i + slack) w_i`` of both ends for several weights.

    Args:
        products: x, [B, N].
        weights: w, [M, N], not negative.
        slack: Largest error of a product.
        count: At most N.
        allowed: [B, N] of 0 and 1, or None.

    Returns:
        Bounds, descending, and their positions, each [B, 2 M, count]: the upper and the lower end of the first
        weights, then those of the second, and so on.
    """
    signs, error = torch.tensor(SIGNS, device=products.device)[:, None], products.new_full((), slack)

    def bounds_of(place: slice) -> Tensor:
        """All ends of some rows, [B, M, 2, n]."""
        reach = torch.addcmul(error, products[:, None, place], signs)
        if allowed is not None:
            reach *= allowed[:, None, place]
        return reach[:, None] * weights[:, None, place]

    length = products.shape[1]
    if length // BLOCK <= 2 * count:
        top = bounds_of(slice(None)).flatten(1, 2).topk(count, dim=2)
        return top.values, top.indices
    step = max(AT_ONCE // (2 * len(weights) * len(products)) // BLOCK, 1) * BLOCK
    pieces = [slice(start, start + step) for start in range(0, length // BLOCK * BLOCK, step)]
    maxima = torch.cat([block_maxima(bounds_of(piece)) for piece in pieces], dim=3).flatten(1, 2)
    places = candidates(maxima.flatten(0, 1), length, count).view(*maxima.shape[:2], -1)
    reach = products.gather(1, places.flatten(1)).view(len(products), -1, 2, places.shape[2]) * signs + error
    if allowed is not None:
        reach *= allowed.gather(1, places.flatten(1)).view(reach.shape)
    owner = torch.arange(len(weights), device=products.device).repeat_interleave(2)[:, None]
    bounds = reach.flatten(1, 2) * weights[owner, places]
    found, order = largest(bounds.flatten(0, 1), count, BLOCK // FINER)
    return found.view(*bounds.shape[:2], count), places.gather(2, order.view(*bounds.shape[:2], count))


def block_maxima(values: Tensor, block: int = BLOCK) -> Tensor:
    """The largest entry of each whole block of [..., N], [..., N // block]."""
    blocks = values.shape[-1] // block
    maxima: Tensor = values[..., : blocks * block].reshape(*values.shape[:-1], blocks, block).amax(dim=-1)
    return maxima


def candidates(maxima: Tensor, length: int, count: int, block: int = BLOCK) -> Tensor:
    """Positions in the ``count`` blocks of the largest maxima, and behind the last whole block; [B, C]."""
    chosen = maxima.topk(count, dim=1, sorted=False).indices
    inside = (chosen[..., None] * block + torch.arange(block, device=maxima.device)).flatten(1)
    rest = torch.arange(maxima.shape[1] * block, length, device=maxima.device)
    return torch.cat([inside, rest.expand(len(maxima), -1)], dim=1)
