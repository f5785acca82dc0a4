"""Layers whose gradients are not products of their raw inputs and output gradients, brought to that form.

A normalisation is taken for a layer without inputs whose output gradients are the gradients of its scales and shifts:
products of one number each, summed over the positions that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from proponent.attribution.gradients.families import Form
from proponent.attribution.gradients.layer_gradients import LayerUse
from proponent.attribution.gradients.layers import LayerShape
from proponent.attribution.gradients.patches import spread


def least_dimensions(module: nn.Module) -> int:
    """Of inputs with a batch."""
    if isinstance(module, _ConvNd):
        return 2 + len(module.kernel_size)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return 1 + len(module.normalized_shape)
    return 1 if isinstance(module, nn.Embedding) else 2


def layer_uses(layer: LayerShape, module: nn.Module, calls: Sequence[tuple[Tensor, Tensor]]) -> tuple[LayerUse, ...]:
    """The uses of a layer in one forward, from the inputs and output gradients of its calls, with the batch first.

    They are in the dtype of the weights: under autocast inputs and outputs have others.
    """
    dtype = next(module.parameters()).dtype
    if layer.form is Form.VECTOR:
        gradients = [_affine(layer, module, inputs.to(dtype), deltas.to(dtype)) for inputs, deltas in calls]
        return _as_one(module, gradients)
    return tuple(
        LayerUse(module, _prepared(module, inputs, deltas, dtype), deltas.to(dtype)) for inputs, deltas in calls
    )


def _as_one(module: nn.Module, gradients: Sequence[Tensor]) -> tuple[LayerUse, ...]:
    """Several uses of one vector are one: its gradient is their sum."""
    if not gradients:
        return ()
    total = torch.stack(list(gradients)).sum(dim=0)[:, None]
    return (LayerUse(module, torch.ones_like(total[..., :1]), total),)


def _prepared(module: nn.Module, inputs: Tensor, deltas: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(module, nn.Embedding):
        return inputs.long()
    if isinstance(module, _ConvTransposeNd):
        return spread(module, inputs.to(dtype), deltas.shape[2:])
    return inputs.to(dtype)


def _affine(layer: LayerShape, module: nn.Module, inputs: Tensor, deltas: Tensor) -> Tensor:
    """Gradient of scales and shifts side by side for each example, ``[B, o]``."""
    parts = [_normalized(module, inputs) * deltas] if layer.has_weight else []
    parts += [deltas] if layer.has_bias else []
    channels_last = isinstance(module, nn.LayerNorm | nn.RMSNorm)
    shape, positions = ((-1, prod(layer.weight_shape)), 1) if channels_last else ((inputs.shape[1], -1), 2)
    return torch.cat([part.reshape(len(part), *shape).sum(dim=positions) for part in parts], dim=1)


def _normalized(module: nn.Module, inputs: Tensor) -> Tensor:
    """What the scales multiply."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(inputs, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(inputs, module.num_groups, eps=module.eps)
    assert isinstance(module, _BatchNorm)  # by their families
    return F.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)
