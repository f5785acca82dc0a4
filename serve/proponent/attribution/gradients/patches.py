"""The inputs and output gradients of a layer as matrices: one row per position at which it is applied."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

NARROW = 64
"""Channels up to which gradients of all examples at once are faster than one after the other."""


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """Rows that the weight matrix is applied to.

    Args:
        module: The layer; only its hyper-parameters are read.
        inputs: ``[B, ..., in]``; ``[B, in, ...]`` of a convolution, see `spread` for transposed ones; int64 indices
            ``[B, ...]`` of an Embedding.

    Returns:
        ``[B, G, T, i]`` without a bias column: T positions, i inputs per group.
    """
    if isinstance(module, _ConvTransposeNd):
        return _by_group(_windows(inputs, module, flipped=True), module.groups)
    if isinstance(module, _ConvNd):
        return _by_group(_unfold(module, _pad(module, inputs)), module.groups)
    if isinstance(module, nn.Embedding):
        return _one_hot(module, inputs)
    return inputs.reshape(inputs.shape[0], 1, -1, inputs.shape[-1])


def output_rows(module: nn.Module, deltas: Tensor) -> Tensor:
    """Output gradients in the order of `input_rows`.

    Args:
        module: The layer.
        deltas: ``[B, ..., out]``; ``[B, out, ...]`` of a convolution.

    Returns:
        ``[B, G, T, o]``.
    """
    if isinstance(module, _ConvNd):
        return _by_group(deltas.flatten(2), module.groups)
    return deltas.reshape(deltas.shape[0], 1, -1, deltas.shape[-1])


def spread(module: _ConvTransposeNd, inputs: Tensor, size: torch.Size) -> Tensor:
    """Inputs of a transposed convolution as those of a plain one with stride 1, zeros between and around them.

    Args:
        module: The layer.
        inputs: ``[B, in, ...]``.
        size: Of the outputs, without batch and channels: a call may choose it.

    Returns:
        ``[B, in, ...]``; the windows of its kernels are at the outputs.
    """
    axes = range(len(size))
    lengths = [(inputs.shape[2 + axis] - 1) * module.stride[axis] + 1 for axis in axes]
    wide = inputs.new_zeros(*inputs.shape[:2], *lengths)
    steps: tuple[slice, ...] = tuple(slice(None, None, int(step)) for step in module.stride)
    wide[(slice(None), slice(None), *steps)] = inputs
    reaches = [module.dilation[axis] * (module.kernel_size[axis] - 1) for axis in axes]
    before = [reaches[axis] - int(module.padding[axis]) for axis in axes]
    after = [size[axis] + reaches[axis] - lengths[axis] - before[axis] for axis in axes]
    return F.pad(wide, list(chain(*zip(reversed(before), reversed(after), strict=True))))


def _one_hot(module: nn.Embedding, indices: Tensor) -> Tensor:
    """``[B, 1, T, V]``; the padding index has no row: its entry of the table gets no gradient."""
    rows = F.one_hot(indices.reshape(indices.shape[0], 1, -1), module.num_embeddings).to(module.weight.dtype)
    if module.padding_idx is not None:
        rows[..., module.padding_idx] = 0
    return rows


def looked_up(module: nn.Module, indices: Tensor, matrix: Tensor) -> Tensor:
    """Products of an Embedding's rows with ``[1, V, s]``, ``[B, 1, T, s]``: no row is made for a word."""
    assert isinstance(module, nn.Embedding)
    table = matrix[0]
    if module.padding_idx is not None:
        table = table.index_fill(0, indices.new_tensor([module.padding_idx]), 0.0)
    return F.embedding(indices.reshape(indices.shape[0], 1, -1), table)


def counts(module: nn.Module, indices: Tensor) -> Tensor:
    """How often each word of an Embedding stands in a batch, ``[V]``: the diagonal of its rows' second moment."""
    assert isinstance(module, nn.Embedding)
    found = torch.bincount(indices.flatten(), minlength=module.num_embeddings).to(module.weight.dtype)
    if module.padding_idx is not None:
        found[module.padding_idx] = 0
    return found


def patch_products(module: nn.Module, inputs: Tensor, kernels: Tensor, offsets: Tensor | None) -> Tensor:
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


def weight_gradients(module: nn.Module, inputs: Tensor, deltas: Tensor) -> Tensor:
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


def _unfold(module: _ConvNd, padded: Tensor) -> Tensor:
    """Patches as columns, ``[B, in * kernel, T]``; a 1x1 kernel needs no copying out of patches."""
    if not isinstance(module, nn.Conv2d):
        return _windows(padded, module)
    if tuple(module.kernel_size) == (1, 1):
        return padded[:, :, :: module.stride[0], :: module.stride[1]].flatten(2)
    return F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)


def _windows(padded: Tensor, module: _ConvNd, *, flipped: bool = False) -> Tensor:
    """What a kernel of any number of dimensions sees, as columns; flipped kernels step by one."""
    dimensions, found = len(module.kernel_size), padded
    for axis in range(dimensions):
        size, spacing = module.kernel_size[axis], module.dilation[axis]
        step = 1 if flipped else module.stride[axis]
        found = found.unfold(2 + axis, spacing * (size - 1) + 1, step)[..., ::spacing]
    windows = range(2 + dimensions, 2 + 2 * dimensions)
    if flipped:
        found = found.flip(list(windows))
    found = found.permute(0, 1, *windows, *range(2, 2 + dimensions))
    return found.flatten(2 + dimensions).flatten(1, 1 + dimensions)


def _padding(module: nn.Conv2d, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Inputs and the padding that a convolution of them still needs: zeros alike on both sides cost no copy."""
    (top, bottom), (left, right) = _margins(module, 0), _margins(module, 1)
    if module.padding_mode == "zeros" and top == bottom and left == right:
        return inputs, (top, left)
    return _pad(module, inputs), (0, 0)


def _pad(module: _ConvNd, inputs: Tensor) -> Tensor:
    axes = reversed(range(len(module.kernel_size)))
    margins = list(chain(*(_margins(module, axis) for axis in axes)))
    if not any(margins):
        return inputs
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(inputs, margins, mode=mode)


def _margins(module: _ConvNd, axis: int) -> tuple[int, int]:
    """Padding before and after along an axis; 'same' puts the odd one after."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        total = module.dilation[axis] * (module.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    margin = int(module.padding[axis])
    return margin, margin
