"""The inputs and output gradients of a layer as matrices: one row per position at which it is applied."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """``[B, G * c, T]`` to ``[B, G, T, c]``."""
    batch, channels, positions = columns.shape
    return columns.reshape(batch, groups, channels // groups, positions).transpose(2, 3)


def _unfold(module: nn.Conv2d, padded: Tensor) -> Tensor:
    """Patches as columns, ``[B, in * kh * kw, T]``; a 1x1 kernel needs no copying out of patches."""
    if tuple(module.kernel_size) == (1, 1):
        return padded[:, :, :: module.stride[0], :: module.stride[1]].flatten(2)
    return F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)


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
