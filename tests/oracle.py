"""Slow float64 truths, computed by other means than the code under test."""

from __future__ import annotations

from collections.abc import Callable

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
    parameters = dict(model.named_parameters())
    entries: list[tuple[str, tuple[int, ...]]] = []
    for layer in groups:
        prefix = f"{layer}." if layer else ""
        weight = parameters[prefix + "weight"]
        for row in range(weight.shape[0]):
            tail = weight[row]
            entries += [(prefix + "weight", (row, *index)) for index in _indices(tuple(tail.shape))]
            if prefix + "bias" in parameters:
                entries.append((prefix + "bias", (row,)))
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
    return [tuple(row) for row in torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist()]
