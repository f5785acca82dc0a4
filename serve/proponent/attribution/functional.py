"""A model as a function of one flat vector of its covered parameters, for torch.func."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from proponent.attribution.gradients.layers import Layers, flatten_parameters, unflatten_parameters
from proponent.attribution.inputs import Inputs, cast
from proponent.attribution.losses import Loss
from proponent.attribution.precision import DoublePrecision, twice_differentiable

LabelledBatch = tuple[Inputs, Tensor, Tensor]
"""Inputs ``[B, ...]``, labels ``[B]`` int64 and example ids ``[B]`` int64."""

Outputs = Callable[[Tensor, Inputs], Tensor]
"""Maps a flat vector ``[P]`` and inputs ``[B, ...]`` to outputs ``[B, ...]``."""


def current_parameters(model: nn.Module, layers: Layers, dtype: torch.dtype) -> Tensor:
    """The model's covered parameters as a flat vector ``[P]``, detached."""
    return flatten_parameters(dict(model.named_parameters()), layers).detach().to(dtype)


def outputs_function(model: nn.Module, layers: Layers, dtype: torch.dtype) -> Outputs:
    """The model in the given precision, twice differentiable; what is not covered, and buffers, are constants."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    constants = {name: cast(tensor.detach(), dtype) for name, tensor in tensors}

    def outputs(flat: Tensor, inputs: Inputs) -> Tensor:
        values = {**constants, **unflatten_parameters(flat, layers)}
        with twice_differentiable(), _computing_in(dtype):
            return call_with(model, values, cast(inputs, dtype))

    return outputs


def call_with(model: nn.Module, values: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
    """The model's outputs with other parameters and buffers, by the names that ``named_parameters`` gives them.

    A tied tensor is replaced wherever it is. `functional_call` does that by itself, but leaves its values behind in a
    module that the model holds under two names.
    """
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    places = {
        f"{prefix}.{name}" if prefix else name: names[id(tensor)]
        for prefix, module in model.named_modules()
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }
    replaced = {place: values[name] for place, name in places.items() if name in values}
    result: Tensor = functional_call(model, replaced, (inputs,), tie_weights=False)
    return result


def summed_loss(outputs: Outputs, loss: Loss, batch: LabelledBatch) -> Callable[[Tensor], Tensor]:
    """The loss summed over a batch as a function of the flat vector."""
    return lambda flat: loss.per_example(outputs(flat, batch[0]), batch[1]).sum()


def _computing_in(dtype: torch.dtype) -> AbstractContextManager[object]:
    return DoublePrecision() if dtype == torch.float64 else nullcontext()
