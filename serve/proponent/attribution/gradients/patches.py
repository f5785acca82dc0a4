"""The inputs and output gradients of a layer as matrices: one row per position at which it is applied."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

NARROW = 64
"""Channels up to which gradients of all examples at once are faster than one after the other."""


def input_rows(module: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Rows that the weight matrix is applied to.

    Args:
        module: The layer; only its hyper-parameters are read.
        inputs: ``[B, ..., in]`` for a Linear, ``[B, in, H, W]`` for a Conv2d.

    Returns:
        ``[B, G, T, i]`` without a bias column: T positions, i inputs per group.
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(inputs.shape[0], 1, -1, inputs.shape[-1])
    return _by_group(_unfold(module, _pad(module, inputs)), module.groups)


def output_rows(module: nn.Linear | nn.Conv2d, deltas: Tensor) -> Tensor:
    """Output gradients in the order of `input_rows`.

    Args:
        module: The layer.
        deltas: ``[B, ..., out]`` for a Linear, ``[B, out, H, W]`` for a Conv2d.

    Returns:
        ``[B, G, T, o]``.
    """
    if isinstance(module, nn.Linear):
        return deltas.reshape(deltas.shape[0], 1, -1, deltas.shape[-1])
    return _by_group(deltas.flatten(2), module.groups)


def patch_products(module: nn.Linear | nn.Conv2d, inputs: Tensor, kernels: Tensor, offsets: Tensor | None) -> Tensor:
    """Products of every patch with the columns of a matrix: a convolution, which copies no patches out.

    Args:
        module: A Conv2d.
        inputs: ``[B, in, H, W]``.
        kernels: ``[G, i, s]``, i without the bias column.
        offsets: ``[G, s]``, added at every position.

    Returns:
        ``[B, G, T, s]``.
    """
    assert isinstance(module, nn.Conv2d)
    groups, width, count = kernels.shape
    height, breadth = module.kernel_size
    weight = kernels.mT.reshape(groups * count, width // (height * breadth), height, breadth)
    # With a pixel's channels side by side the products come as rows, and small images take a fifth less time.
    weight, inputs = (t.contiguous(memory_format=torch.channels_last) for t in (weight, inputs))
    bias = None if offsets is None else offsets.flatten()
    inputs, padding = _padding(module, inputs)
    found = F.conv2d(inputs, weight, bias, module.stride, padding, module.dilation, groups)
    if groups > 1:
        return _by_group(found.flatten(2), groups)
    return found.permute(0, 2, 3, 1).flatten(1, 2)[:, None]


def weight_gradients(module: nn.Linear | nn.Conv2d, inputs: Tensor, deltas: Tensor) -> Tensor:
    """Gradient of a Conv2d's weight for each example, ``[B, G, o, i]``, by the backward of a convolution.

    Few channels: of all examples at once, each a group of its own. Many: of one example after the other.
    """
    assert isinstance(module, nn.Conv2d)
    inputs, padding = _padding(module, inputs)
    together = inputs.shape[1] // module.groups <= NARROW
    each = [len(inputs)] if together else [1] * len(inputs)
    found = [
        _grouped_gradient(module, value, delta, padding)
        for value, delta in zip(torch.split(inputs, each), torch.split(deltas, each), strict=True)
    ]
    return torch.cat(found).reshape(len(inputs), module.groups, module.out_channels // module.groups, -1)


def _grouped_gradient(module: nn.Conv2d, inputs: Tensor, deltas: Tensor, padding: tuple[int, int]) -> Tensor:
    """Gradient of the weight for each of n examples, ``[n * out, in / G, kh, kw]``."""
    count = len(inputs)
    shape = [count * module.out_channels, *(int(size) for size in module.weight.shape[1:])]
    found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        inputs.reshape(1, -1, *inputs.shape[2:]),
        shape,
        deltas.reshape(1, -1, *deltas.shape[2:]),
        module.stride,
        padding,
        module.dilation,
        count * module.groups,
    )
    return found


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """``[B, G * c, T]`` to ``[B, G, T, c]``."""
    batch, channels, positions = columns.shape
    return columns.reshape(batch, groups, channels // groups, positions).transpose(2, 3)


def _unfold(module: nn.Conv2d, padded: Tensor) -> Tensor:
    """Patches as columns, ``[B, in * kh * kw, T]``; a 1x1 kernel needs no copying out of patches."""
    if tuple(module.kernel_size) == (1, 1):
        return padded[:, :, :: module.stride[0], :: module.stride[1]].flatten(2)
    return F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)


def _padding(module: nn.Conv2d, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Inputs and the padding that a convolution of them still needs: zeros alike on both sides cost no copy."""
    (top, bottom), (left, right) = _margins(module, 0), _margins(module, 1)
    if module.padding_mode == "zeros" and top == bottom and left == right:
        return inputs, (top, left)
    return _pad(module, inputs), (0, 0)


def _pad(module: nn.Conv2d, inputs: Tensor) -> Tensor:
    left, right = _margins(module, 1)
    top, bottom = _margins(module, 0)
    margins = (left, right, top, bottom)
    if not any(margins):
        return inputs
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(inputs, margins, mode=mode)


def _margins(module: nn.Conv2d, axis: int) -> tuple[int, int]:
    """Padding before and after along an axis; 'same' puts the odd one after."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        total = module.dilation[axis] * (module.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    margin = int(module.padding[axis])
    return margin, margin
