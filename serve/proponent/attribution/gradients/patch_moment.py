"""The second moment of a convolution's patches without copying patches out.

Patches overlap: the product of two of their numbers depends on the two pixels, and most pairs of pixels stand in
several patches. With p the pixel of a patch's number (c, u) and D = u' - u,

    sum_t a_t[c, u] a_t[c', u'] = sum_{p in window(u)} x[c, p] x[c', p + D],

where window(u) is the whole image but for a few rows and columns at its edges, and what lies outside of the image is
zero. So the sum over the whole image is formed once for each lag D, less the edges that a window lacks.
The moment is symmetric: half of the lags are enough, for a 3 x 3 kernel 13 products of channels in place of 81.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    moment = _moment(inputs, (height, width), (above, left))
    if not has_bias:
        return moment
    total = F.pad(inputs.sum(dim=0), (left, left, above, above))
    rows, columns = total.shape[1] - height + 1, total.shape[2] - width + 1
    sums = torch.stack(
        [total[:, u : u + rows, v : v + columns].sum(dim=(1, 2)) for u in range(height) for v in range(width)], dim=1
    ).flatten()
    corner = sums.new_full((1,), float(len(inputs) * rows * columns))
    return torch.cat([torch.cat([moment, sums[None]]), torch.cat([sums, corner])[:, None]], dim=1)


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return int(value[0]), int(value[1])


def _moment(inputs: Tensor, kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    lags = _LaggedSums.of(inputs, kernel)
    places = [(u, v) for u in range(kernel[0]) for v in range(kernel[1])]
    size, channels = len(places), inputs.shape[1]
    first, second = torch.triu_indices(size, size).unbind()
    half = torch.stack(
        [
            _entry(lags, places[i], places[j], kernel, padding)
            for i, j in zip(first.tolist(), second.tolist(), strict=True)
        ]
    )
    whole = half.new_empty(size, size, channels, channels)
    whole[second, first] = half.mT
    whole[first, second] = half
    return whole.permute(2, 0, 3, 1).reshape(channels * size, channels * size)


def _entry(
    lags: _LaggedSums,
    place: tuple[int, int],
    other: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """``sum_p x[c, p] x[c', p + D]`` over the window of a place, D to another one that is not before it, [C, C]."""
    lag = other[0] - place[0], other[1] - place[1]
    rows, columns = (
        _intervals(place[axis], lag[axis], lags.size[axis], kernel[axis], padding[axis]) for axis in range(2)
    )
    total: Tensor | None = None
    for row_sign, some_rows in rows:
        for column_sign, some_columns in columns:
            part = row_sign * column_sign * lags.sum(lag, some_rows, some_columns)
            total = part if total is None else total + part
    return lags.nothing() if total is None else total


Interval = tuple[int, int]


def _intervals(place: int, lag: int, size: int, kernel: int, padding: int) -> list[tuple[int, Interval]]:
    """A window along an axis as the whole, less what it lacks on either side; nothing where it is empty."""
    start, end = _inside(lag, size)
    positions = size + 2 * padding - kernel + 1
    low, high = max(start, place - padding), min(end, place - padding + positions)
    if low >= high:
        return []
    lacking = [interval for interval in ((start, low), (high, end)) if interval[0] < interval[1]]
    return [(1, (start, end)), *((-1, interval) for interval in lacking)]


def _inside(lag: int, size: int) -> Interval:
    """Where both pixels of a lag are in the image."""
    return max(0, -lag), min(size, size - lag)


@dataclass(frozen=True)
class _LaggedSums:
    """Sums of ``x[c, p] x[c', p + D]`` over parts of images, each formed once.

    Attributes:
        pixels: [H, W, B, C].
        whole: Over whole images, for all lags that are not up the image, [k, 2 l - 1, C, C] of a kernel k x l.
    """

    pixels: Tensor
    whole: Tensor
    found: dict[tuple[Interval, Interval, Interval], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Tensor, kernel: tuple[int, int]) -> _LaggedSums:
        (height, width), channels = kernel, inputs.shape[1]
        # As the gradient of a convolution's weight, whose outputs have the images themselves for gradients.
        below = F.pad(inputs, (0, 0, 0, height - 1))
        whole: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            below, [channels, channels, height, 2 * width - 1], inputs, padding=(0, width - 1)
        )
        return cls(inputs.permute(2, 3, 0, 1), whole.permute(2, 3, 0, 1))

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def nothing(self) -> Tensor:
        """The sum over no pixels."""
        return self.pixels.new_zeros(self.pixels.shape[3], self.pixels.shape[3])

    def sum(self, lag: Interval, rows: Interval, columns: Interval) -> Tensor:
        """Over the pixels p of some rows and columns, [C, C]; the lag is not up the image, nor back in a row."""
        if rows == _inside(lag[0], self.size[0]) and columns == _inside(lag[1], self.size[1]):
            return self.whole[lag[0], lag[1] + self.whole.shape[1] // 2]
        key = lag, rows, columns
        if key not in self.found:
            here, there = self._block(lag, rows, columns)
            self.found[key] = here.mT @ there
        return self.found[key]

    def _block(self, lag: Interval, rows: Interval, columns: Interval) -> tuple[Tensor, Tensor]:
        here = self.pixels[rows[0] : rows[1], columns[0] : columns[1]]
        there = self.pixels[rows[0] + lag[0] : rows[1] + lag[0], columns[0] + lag[1] : columns[1] + lag[1]]
        return here.flatten(0, 2), there.flatten(0, 2)
