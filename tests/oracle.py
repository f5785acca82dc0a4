"""Slow float64 truths, computed by other means than the code under test."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

PerExample = Callable[[Tensor, Tensor], Tensor]


def per_example_gradients(
    model: nn.Module, per_example: PerExample, inputs: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Parameter name to ``[B, *shape]`` by vmap(grad) over batches of one."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return per_example(functional_call(model, parameters, (x.unsqueeze(0),)), y.unsqueeze(0)).sum()

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, labels)


def order(model: nn.Module, groups: dict[str, int]) -> list[tuple[str, tuple[int, ...]]]:
    """(parameter name, index) of every entry of the flat vector, by plain loops.

    Args:
        model: The model.
        groups: Covered layer to its number of groups.
    """
    return [entry for layer, count in groups.items() for entry in _entries(model, layer, count)]


def _entries(model: nn.Module, layer: str, groups: int) -> list[tuple[str, tuple[int, ...]]]:
    parameters, prefix = dict(model.named_parameters()), f"{layer}." if layer else ""
    if ".in_proj." in f".{layer}":
        return _projection(parameters, layer)
    module = model.get_submodule(layer)
    shape, has_bias = tuple(parameters[prefix + "weight"].shape), prefix + "bias" in parameters
    if "Norm" in type(module).__name__:  # all scales, then all shifts
        return [
            (prefix + name, index)
            for name in ("weight", "bias")
            if prefix + name in parameters
            for index in _indices(shape)
        ]
    if isinstance(module, nn.Embedding) or "Transpose" in type(module).__name__ or type(module).__name__ == "Conv1D":
        inputs = shape[0] // groups  # the weight is [in, out / G, ...]
        rows = [
            [(group * inputs + i, o, *tail) for i in range(inputs) for tail in _indices(shape[2:])]
            for group in range(groups)
            for o in range(shape[1])
        ]
    else:
        rows = [[(row, *tail) for tail in _indices(shape[1:])] for row in range(shape[0])]
    return [
        entry
        for number, row in enumerate(rows)
        for entry in (*((prefix + "weight", index) for index in row), *[(prefix + "bias", (number,))] * has_bias)
    ]


def _projection(parameters: dict[str, Tensor], layer: str) -> list[tuple[str, tuple[int, ...]]]:
    """The map to queries, keys or values of an attention, out of parameters that hold all three or one."""
    prefix, _, which = f".{layer}".rpartition("in_proj.")
    prefix, number = prefix[1:], ["query", "key", "value"].index(which)
    own, bias = f"{prefix}{which[0]}_proj_weight", f"{prefix}in_proj_bias"
    weight = own if own in parameters else f"{prefix}in_proj_weight"
    size = parameters[weight].shape[0] // (1 if weight == own else 3)
    first = 0 if weight == own else number * size
    entries: list[tuple[str, tuple[int, ...]]] = []
    for row in range(size):
        entries += [(weight, (first + row, column)) for column in range(parameters[weight].shape[1])]
        entries += [(bias, (number * size + row,))] * (bias in parameters)
    return entries


def flat(named: dict[str, Tensor], entries: list[tuple[str, tuple[int, ...]]]) -> Tensor:
    """Gather named values, each ``[B, *shape]``, into ``[B, P]`` entry by entry."""
    return torch.stack([named[name][(slice(None), *index)] for name, index in entries], dim=1)


def flat_parameters(model: nn.Module, entries: list[tuple[str, tuple[int, ...]]]) -> Tensor:
    """The model's own parameters as ``[P]``."""
    named = {name: p.detach().unsqueeze(0) for name, p in model.named_parameters()}
    return flat(named, entries)[0]


def objective_hessian(
    model: nn.Module,
    per_example: PerExample,
    inputs: Tensor,
    labels: Tensor,
    entries: list[tuple[str, tuple[int, ...]]],
    weight_decay: float = 0.0,
) -> Tensor:
    """Hessian ``[P, P]`` of the mean loss plus ``wd / 2 ||theta||^2`` by torch.func."""
    theta = flat_parameters(model, entries)

    def objective(theta: Tensor) -> Tensor:
        loss = per_example(functional_call(model, named(model, theta, entries), (inputs,)), labels).mean()
        return loss + weight_decay / 2 * theta.square().sum()

    return jacrev(grad(objective))(theta)


def output_jacobian(model: nn.Module, inputs: Tensor, entries: list[tuple[str, tuple[int, ...]]]) -> Tensor:
    """``[B, C, P]`` by jacrev."""

    def outputs(theta: Tensor) -> Tensor:
        return functional_call(model, named(model, theta, entries), (inputs,))

    return jacrev(outputs)(flat_parameters(model, entries))


def named(model: nn.Module, theta: Tensor, entries: list[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Parameters from ``[P]``, entry by entry; those without entries keep their values."""
    values = {name: p.detach().reshape(-1) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        places = [k for k, (owner, _) in enumerate(entries) if owner == name]
        if places:
            values[name] = _scatter(theta, places, [entries[k][1] for k in places], tuple(parameter.shape))
    return {name: values[name].reshape(p.shape) for name, p in model.named_parameters()}


def _scatter(theta: Tensor, places: list[int], indices: list[tuple[int, ...]], shape: tuple[int, ...]) -> Tensor:
    offsets = {index: k for k, index in zip(places, indices, strict=True)}
    return theta[torch.tensor([offsets[index] for index in _indices(shape)])]


def _indices(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(product(*map(range, shape)))
