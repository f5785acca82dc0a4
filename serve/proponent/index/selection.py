"""The largest entries of long rows, by block maxima: one cheap pass instead of a partial sort."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
FINER = 8
AT_ONCE, AT_ONCE_ON_DEVICE = 1 << 20, 1 << 23
"""Numbers of a temporary: larger ones leave the caches, which on a GPU are larger; and a processor's system takes
their pages back each time."""
PIECES = 8
"""Most temporaries one after the other on a GPU, where more launches cost more than memory that is not its cache."""
APART = 6
"""A bound that is gathered costs as much as so many neighbours, so that of few rows all bounds are found."""
FEW_ON_DEVICE = 4096
"""Numbers of a row of which a GPU finds the largest in the time of asking it for something smaller first."""
SIGNS = (1.0, -1.0)


def largest(values: Tensor, count: int, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The ``count`` largest entries of each row of [..., N], with their positions; like ``topk``.

    The largest entries lie in the blocks with the largest maxima, so only those blocks are looked into, by
    smaller blocks.
    """
    length = values.shape[-1]
    few = FEW_ON_DEVICE if values.device.type != "cpu" else 0
    if length // block <= 2 * count or length <= few:
        top = values.topk(count)
        return top.values, top.indices
    blocks = length // block
    # A block's entries lie apart, so that many maxima are found by one instruction.
    maxima = values[..., : blocks * block].reshape(*values.shape[:-1], block, blocks).amax(dim=-2)
    places = candidates(maxima, length, count, block, apart=blocks)
    found, order = largest(values.gather(-1, places), count, max(block // FINER, 2))
    return found, places.gather(-1, order)


class EndBounds:
    """Upper bounds ``(+-x_i + slack) w_i`` of the scores of B queries at E = 2 M ends, found where needed.

    The ends are the upper and the lower one of the first weights, then those of the second, and so on.

    Args:
        products: x, [B, N].
        weights: w, [M, N], not negative.
        slack: Largest error of a product.
        allowed: [B, N] of 0 and 1, or None.
    """

    def __init__(self, products: Tensor, weights: Tensor, slack: float, allowed: Tensor | None) -> None:
        self.queries, self.length = products.shape
        self.ends = len(SIGNS) * len(weights)
        self._products = products
        self._weights = weights
        self._allowed = allowed
        # Made there: a copy from the host would wait for all that the device was asked before.
        self._signs = 1.0 - 2.0 * torch.arange(len(SIGNS), device=products.device)[:, None]
        self._slack = products.new_full((), slack)

    def between(self, place: slice) -> Tensor:
        """The bounds of neighbouring rows, [B, E, n]."""
        reach = torch.addcmul(self._slack, self._products[:, None, place], self._signs)
        if self._allowed is not None:
            reach *= self._allowed[:, None, place]
        return (reach[:, None] * self._weights[:, None, place]).flatten(1, 2)

    def at(self, places: Tensor) -> Tensor:
        """The bounds of other rows at each end, [B, E, C], for their positions [B, E, C]."""
        end = torch.arange(self.ends, device=places.device)
        reach = _columns(self._products, places) * self._signs[end % len(SIGNS)] + self._slack
        if self._allowed is not None:
            reach *= _columns(self._allowed, places)
        return reach * self._weights[(end // len(SIGNS))[:, None], places]

    def maxima(self) -> Tensor:
        """The largest bound of each whole block, [B, E, N // BLOCK]."""
        each = self.queries * self.ends
        numbers = AT_ONCE
        if self._products.device.type != "cpu":
            numbers = max(AT_ONCE_ON_DEVICE, each * self.length // PIECES)
        step = max(numbers // each // BLOCK, 1) * BLOCK
        starts = range(0, self.length // BLOCK * BLOCK, step)
        return torch.cat([block_maxima(self.between(slice(start, start + step))) for start in starts], dim=-1)


def _columns(values: Tensor, places: Tensor) -> Tensor:
    """Entries of [B, N] at positions [B, E, C]."""
    return values.gather(1, places.flatten(1)).view(places.shape)


def strongest_ends(bounds: EndBounds, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` (at most N) largest bounds of each end, descending, and their positions, each [B, E, count]."""
    if bounds.length // BLOCK <= APART * count:
        return largest(bounds.between(slice(None)), count, BLOCK // FINER)
    places = candidates(bounds.maxima(), bounds.length, count)
    found, order = largest(bounds.at(places), count, BLOCK // FINER)
    return found, places.gather(-1, order)


def block_maxima(values: Tensor, block: int = BLOCK) -> Tensor:
    """The largest entry of each whole block of [..., N], [..., N // block]."""
    blocks = values.shape[-1] // block
    maxima: Tensor = values[..., : blocks * block].reshape(*values.shape[:-1], blocks, block).amax(dim=-1)
    return maxima


def candidates(maxima: Tensor, length: int, count: int, block: int = BLOCK, apart: int = 1) -> Tensor:
    """Positions in the ``count`` blocks of largest maxima [..., blocks], and behind the last one; [..., C].

    A block's entries are neighbours, or as far ``apart`` as there are blocks.
    """
    chosen = maxima.topk(count, sorted=False).indices
    first = chosen if apart > 1 else chosen * block
    inside = (first[..., None] + apart * torch.arange(block, device=maxima.device)).flatten(-2)
    rest = torch.arange(maxima.shape[-1] * block, length, device=maxima.device)
    return torch.cat([inside, rest.expand(*maxima.shape[:-1], -1)], dim=-1)
