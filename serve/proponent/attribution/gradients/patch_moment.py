"""The second moment of a convolution's patches without copying patches out.

Patches overlap: the product of two of their numbers depends on the two pixels, and most pairs of pixels stand in
several patches. With p the pixel of a patch's number (c, u) and D = u' - u,

    sum_t a_t[c, u] a_t[c', u'] = sum_{p in window(u)} x[c, p] x[c', p + D],

whose window hardly depends on u. So the image is cut into bands of rows and columns that all windows treat alike, the
lagged products of each band are the gradient of a convolution with a (2 k - 1)-wide kernel, and every entry of the
moment is a sum over the bands of its window. The moment is symmetric, so that lags down the image are enough: for a
3 x 3 kernel 15 products of channels in place of 81.
"""

from __future__ import annotations

from itertools import combinations, pairwise, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

LEAST_CHANNELS = 8
"""With fewer the products are too narrow to gain."""


def has_fast_moment(module: nn.Module) -> bool:
    """Whether `patch_moment` computes a layer's patches, and gains: not for strides, groups and dilations."""
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels >= LEAST_CHANNELS
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and set(module.stride) == set(module.dilation) == {1}
        and min(module.kernel_size) > 1
    )


def patch_moment(module: nn.Module, inputs: Tensor, *, has_bias: bool) -> Tensor:
    """Sum over examples and positions of ``a_t a_t^T``, ``[i, i]``, for inputs ``[B, C, H, W]``.

    Args:
        module: A layer that `has_fast_moment` takes.
        inputs: Its inputs.
        has_bias: Whether a ends in a one.
    """
    (height, width), (above, left) = (_pair(size) for size in (module.kernel_size, module.padding))
    padded = F.pad(inputs, (left, left, above, above))
    rows, columns = padded.shape[2] - height + 1, padded.shape[3] - width + 1
    moment = _moment(padded, (height, width), (rows, columns), (above, left))
    if not has_bias:
        return moment
    total = padded.sum(dim=0)
    sums = torch.stack(
        [total[:, u : u + rows, v : v + columns].sum(dim=(1, 2)) for u in range(height) for v in range(width)], dim=1
    ).flatten()
    corner = sums.new_full((1,), float(len(inputs) * rows * columns))
    return torch.cat([torch.cat([moment, sums[None]]), torch.cat([sums, corner])[:, None]], dim=1)


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return int(value[0]), int(value[1])


def _moment(padded: Tensor, kernel: tuple[int, int], positions: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    channels, (height, width) = padded.shape[1], kernel
    bands = [_bands(k, n, p) for k, n, p in zip(kernel, positions, padding, strict=True)]
    around = F.pad(padded, (width - 1, width - 1, 0, height - 1))
    lagged = {
        (rows, columns): _lagged(padded, around, rows, columns, kernel)
        for rows, columns in product(bands[0], bands[1])
    }
    moment = padded.new_empty(channels, height, width, channels, height, width)
    for u, v in product(range(height), range(width)):
        inside = [
            found
            for (rows, columns), found in lagged.items()
            if u <= rows[0] < u + positions[0] and v <= columns[0] < v + positions[1]
        ]
        if not inside:  # in a small image a number may lie in padding at all positions
            moment[:, u, v] = 0
            continue
        total = torch.stack(inside).sum(dim=0)
        moment[:, u, v, :, u:] = total[:, :, : height - u, width - 1 - v : 2 * width - 1 - v]
    for u, below in combinations(range(height), 2):
        moment[:, below, :, :, u] = moment[:, u, :, :, below].permute(2, 3, 0, 1)
    return moment.reshape(channels * height * width, -1)


Band = tuple[int, int]


def _bands(kernel: int, positions: int, padding: int) -> list[Band]:
    """Ranges of rows (or columns) of a padded image that lie in a window as a whole or not at all; no zeros alone."""
    size = positions + kernel - 1
    ends = {*range(kernel), *range(positions, size + 1)}
    inner = {end for end in ends if padding <= end <= size - padding}
    return list(pairwise(sorted(inner | {padding, size - padding})))


def _lagged(padded: Tensor, around: Tensor, rows: Band, columns: Band, kernel: tuple[int, int]) -> Tensor:
    """``sum_p x[c, p] x[c', p + D]`` over a band for every lag D that is not up the image, [C, C, k, 2 k - 1]."""
    channels, (height, width) = padded.shape[1], kernel
    band = padded[:, :, slice(*rows), slice(*columns)]
    seen = around[:, :, rows[0] : rows[1] + height - 1, columns[0] : columns[1] + 2 * (width - 1)]
    size = [channels, channels, height, 2 * width - 1]
    found: Tensor = conv2d_weight(seen.contiguous(), size, band.contiguous())  # type: ignore[no-untyped-call]
    return found
