"""A model as a function of one flat vector of its covered parameters, for torch.func."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from proponent.attribution.layers import Layers, flatten_parameters, unflatten_parameters
from proponent.attribution.losses import Loss

Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs ``[B, ...]``, labels ``[B]`` int64 and example ids ``[B]`` int64."""

Outputs = Callable[[Tensor, Tensor], Tensor]
"""Maps a flat vector ``[P]`` and inputs ``[B, ...]`` to outputs ``[B, ...]``."""


def current_parameters(model: nn.Module, layers: Layers, dtype: torch.dtype) -> Tensor:
    """The model's covered parameters as a flat vector ``[P]``, detached."""
    return flatten_parameters(dict(model.named_parameters()), layers).detach().to(dtype)


def outputs_function(model: nn.Module, layers: Layers, dtype: torch.dtype) -> Outputs:
    """The model in the given precision; parameters that are not covered and buffers are constants."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    constants = {name: _cast(tensor.detach(), dtype) for name, tensor in tensors}

    def outputs(flat: Tensor, inputs: Tensor) -> Tensor:
        values = {**constants, **unflatten_parameters(flat, layers)}
        result: Tensor = functional_call(model, values, (_cast(inputs, dtype),))
        return result

    return outputs


def summed_loss(outputs: Outputs, loss: Loss, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The loss summed over a batch as a function of the flat vector."""
    return lambda flat: loss.per_example(outputs(flat, batch[0]), batch[1]).sum()


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
