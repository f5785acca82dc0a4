"""Which layers attribution covers, and the one order of their parameters.

A covered layer's parameters form a matrix ``[G, o, i]``: G groups (1 unless a grouped convolution), o outputs
and i inputs per group, the bias being the **last column** if there is one. A Linear is ``[1, out, in + 1]``,
a Conv2d ``[G, out / G, (in / G) * kh * kw + 1]``. Flat vectors ``[P]`` concatenate these matrices, row-major,
layer by layer in the order of the ``layers`` mapping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from proponent.errors import SpecError


@dataclass(frozen=True)
class LayerShape:
    """Shape of one covered layer.

    Attributes:
        name: Qualified module name; empty if the model itself is the layer.
        groups: G.
        out: o, outputs per group.
        inputs: i, inputs per group, the bias column included.
        has_bias: Whether the last of the inputs is the bias column.
        weight_shape: Shape of the module's weight.
    """

    name: str
    groups: int
    out: int
    inputs: int
    has_bias: bool
    weight_shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of parameters."""
        return self.groups * self.out * self.inputs

    @property
    def weight_name(self) -> str:
        """Qualified name of the weight parameter."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def bias_name(self) -> str:
        """Qualified name of the bias parameter, whether or not there is one."""
        return f"{self.name}.bias" if self.name else "bias"


Layers = Mapping[str, LayerShape]


def find_layers(model: nn.Module, include: Sequence[str] | None = None) -> dict[str, LayerShape]:
    """Linear and Conv2d layers whose per-example gradients `capture` can compute.

    Left out are subclasses and parametrised layers (they may compute something else), layers without own
    weights, and layers that share a parameter with another module; `uncovered` names what they hold.

    Args:
        model: Any module.
        include: Qualified names; only layers that equal or lie below one of them. None takes all.

    Returns:
        Layer name to shape, in the order of ``model.named_modules()``.

    Raises:
        SpecError: If a name in ``include`` matches no layer.
    """
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    found = {
        name: _shape(name, module)
        for name, module in model.named_modules()
        if _is_supported(module) and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    }
    return found if include is None else _restrict(found, include)


def uncovered(model: nn.Module, layers: Layers) -> dict[str, int]:
    """Names and sizes of the parameters that ``layers`` leaves out, e.g. of norms and embeddings."""
    covered = {layer.weight_name for layer in layers.values()}
    covered |= {layer.bias_name for layer in layers.values() if layer.has_bias}
    return {name: p.numel() for name, p in model.named_parameters() if name not in covered}


def num_parameters(layers: Layers) -> int:
    """P, the number of covered parameters."""
    return sum(layer.numel for layer in layers.values())


def unflatten(layer: LayerShape, dense: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias from the matrix form.

    Args:
        layer: The layer.
        dense: ``[..., G, o, i]``.

    Returns:
        Weight ``[..., *weight_shape]`` and bias ``[..., G * o]`` or None.
    """
    lead = dense.shape[:-3]
    if not layer.has_bias:
        return dense.reshape(*lead, *layer.weight_shape), None
    weight, bias = dense[..., :-1], dense[..., -1]
    return weight.reshape(*lead, *layer.weight_shape), bias.reshape(*lead, -1)


def flatten(layer: LayerShape, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Inverse of `unflatten`: the matrix form ``[G, o, i]`` of a weight and a bias."""
    matrix = weight.reshape(layer.groups, layer.out, -1)
    if bias is None:
        return matrix
    return torch.cat([matrix, bias.reshape(layer.groups, layer.out, 1)], dim=2)


def flatten_parameters(parameters: Mapping[str, Tensor], layers: Layers) -> Tensor:
    """Flat vector ``[P]`` of named parameters (or gradients) in the order of ``layers``."""
    matrices = [
        flatten(layer, parameters[layer.weight_name], parameters[layer.bias_name] if layer.has_bias else None)
        for layer in layers.values()
    ]
    return torch.cat([matrix.reshape(-1) for matrix in matrices])


def split_flat(flat: Tensor, layers: Layers) -> dict[str, Tensor]:
    """Cut ``[..., P]`` into one matrix form ``[..., G, o, i]`` per layer."""
    pieces = torch.split(flat, [layer.numel for layer in layers.values()], dim=-1)
    shapes = [(layer.groups, layer.out, layer.inputs) for layer in layers.values()]
    forms = (piece.reshape(*piece.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True))
    return dict(zip(layers, forms, strict=True))


def unflatten_parameters(flat: Tensor, layers: Layers) -> dict[str, Tensor]:
    """Named parameters from a flat vector ``[P]``; inverse of `flatten_parameters`."""
    named: dict[str, Tensor] = {}
    for name, dense in split_flat(flat, layers).items():
        weight, bias = unflatten(layers[name], dense)
        named[layers[name].weight_name] = weight
        if bias is not None:
            named[layers[name].bias_name] = bias
    return named


def _is_supported(module: nn.Module) -> bool:
    # Exact types: a subclass may override forward, and parametrised modules are subclasses made on the fly.
    # A weight that is no parameter of the module belongs to a re-parametrisation such as weight_norm.
    return type(module) in (nn.Linear, nn.Conv2d) and module._parameters.get("weight") is not None


def _shape(name: str, module: nn.Module) -> LayerShape:
    weight = module._parameters["weight"]
    assert weight is not None  # by _is_supported
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    has_bias = module._parameters.get("bias") is not None
    inputs = prod(weight.shape[1:]) + has_bias
    return LayerShape(name, groups, weight.shape[0] // groups, inputs, has_bias, tuple(weight.shape))


def _restrict(found: dict[str, LayerShape], include: Sequence[str]) -> dict[str, LayerShape]:
    for prefix in include:
        if not any(_is_below(name, prefix) for name in found):
            known = ", ".join(found) or "none"
            raise SpecError(f"No layer {prefix!r} to cover: known layers are {known}.", field="layers")
    return {name: shape for name, shape in found.items() if any(_is_below(name, p) for p in include)}


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
