"""Which layers attribution covers, and the one order of their parameters.

A covered layer's parameters form a matrix ``[G, o, i]``: G groups (1 unless a grouped convolution), o outputs
and i inputs per group, the bias being the **last column** if there is one. A Linear is ``[1, out, in + 1]``,
a Conv2d ``[G, out / G, (in / G) * kh * kw + 1]``. A frozen bias has no column, and where only the bias is trained
it is the only one. Flat vectors ``[P]`` concatenate these matrices, row-major, layer by layer in the order of the
``layers`` mapping.
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
        has_weight: Whether the other inputs are there; False where only the bias is covered.
    """

    name: str
    groups: int
    out: int
    inputs: int
    has_bias: bool
    weight_shape: tuple[int, ...]
    has_weight: bool = True

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

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Qualified names of the parameters covered."""
        return (self.weight_name,) * self.has_weight + (self.bias_name,) * self.has_bias


Layers = Mapping[str, LayerShape]


def find_layers(
    model: nn.Module, include: Sequence[str] | None = None, *, frozen: bool = False
) -> dict[str, LayerShape]:
    """Linear and Conv2d layers whose per-example gradients `capture` can compute.

    Left out are frozen parameters (training does not change them, so no example can have), subclasses and
    parametrised layers (they may compute something else), layers without own weights, and layers that share a
    parameter with another module; `uncovered` and `frozen_parameters` name what they hold.

    Args:
        model: Any module.
        include: Qualified names; only layers that equal or lie below one of them. None takes all.
        frozen: Whether to take parameters with ``requires_grad=False`` as if they were trained.

    Returns:
        Layer name to shape, in the order of ``model.named_modules()``.

    Raises:
        SpecError: If a name in ``include`` matches no layer, or frozen ones alone.
    """
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    shapes = {
        name: _shape(name, module, frozen)
        for name, module in model.named_modules()
        if _is_supported(module) and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    }
    chosen = shapes if include is None else _restrict(shapes, include)
    return {name: shape for name, shape in chosen.items() if shape.parameter_names}


def uncovered(model: nn.Module, layers: Layers, *, frozen: bool = False) -> dict[str, int]:
    """Names and sizes of the trained parameters that ``layers`` leaves out, e.g. of norms and embeddings.

    Args:
        model: The model.
        layers: What is covered.
        frozen: Whether frozen parameters count as trained.
    """
    covered = {name for layer in layers.values() for name in layer.parameter_names}
    return {
        name: p.numel() for name, p in model.named_parameters() if name not in covered and (frozen or p.requires_grad)
    }


def frozen_parameters(model: nn.Module) -> dict[str, int]:
    """Names and sizes of the parameters that training does not change (``requires_grad=False``)."""
    return {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}


def frozen_state(model: nn.Module) -> list[str]:
    """Entries of the state_dict that training leaves alone: frozen parameters, and buffers that belong to them.

    A buffer belongs to frozen parameters where it lies in a module all of whose parameters are frozen.
    """
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for prefix, module in model.named_modules(remove_duplicate=False):
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers()}
    return [name for name in model.state_dict() if name in names]


def num_parameters(layers: Layers) -> int:
    """P, the number of covered parameters."""
    return sum(layer.numel for layer in layers.values())


def unflatten(layer: LayerShape, dense: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias from the matrix form.

    Args:
        layer: The layer.
        dense: ``[..., G, o, i]``.

    Returns:
        Weight ``[..., *weight_shape]`` and bias ``[..., G * o]``, None where it is not covered.
    """
    lead, width = dense.shape[:-3], layer.inputs - layer.has_bias
    weight, bias = dense[..., :width], dense[..., width:]
    return (
        weight.reshape(*lead, *layer.weight_shape) if layer.has_weight else None,
        bias.reshape(*lead, -1) if layer.has_bias else None,
    )


def flatten(layer: LayerShape, parameters: Mapping[str, Tensor]) -> Tensor:
    """Inverse of `unflatten`: the matrix form ``[G, o, i]`` of a layer's named parameters (or gradients)."""
    columns = [parameters[name].reshape(layer.groups, layer.out, -1) for name in layer.parameter_names]
    return torch.cat(columns, dim=2)


def flatten_parameters(parameters: Mapping[str, Tensor], layers: Layers) -> Tensor:
    """Flat vector ``[P]`` of named parameters (or gradients) in the order of ``layers``."""
    return torch.cat([flatten(layer, parameters).reshape(-1) for layer in layers.values()])


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
        parts = [part for part in unflatten(layers[name], dense) if part is not None]
        named.update(zip(layers[name].parameter_names, parts, strict=True))
    return named


def _is_supported(module: nn.Module) -> bool:
    # Exact types: a subclass may override forward, and parametrised modules are subclasses made on the fly.
    # A weight that is not a parameter of the module belongs to a re-parametrisation such as weight_norm.
    return type(module) in (nn.Linear, nn.Conv2d) and module._parameters.get("weight") is not None


def _shape(name: str, module: nn.Module, frozen: bool) -> LayerShape:
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    assert weight is not None  # by _is_supported
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    has_weight = frozen or weight.requires_grad
    has_bias = bias is not None and (frozen or bias.requires_grad)
    inputs = prod(weight.shape[1:]) * has_weight + has_bias
    return LayerShape(name, groups, weight.shape[0] // groups, inputs, has_bias, tuple(weight.shape), has_weight)


def _restrict(found: dict[str, LayerShape], include: Sequence[str]) -> dict[str, LayerShape]:
    for prefix in include:
        named = [shape for name, shape in found.items() if _is_below(name, prefix)]
        if not named:
            known = ", ".join(found) or "none"
            raise SpecError(f"No layer {prefix!r} to cover: known layers are {known}.", field="curvature.layers")
        if not any(shape.parameter_names for shape in named):
            raise SpecError(
                f"layer {prefix!r} is frozen (requires_grad=False): training did not change it, so no example did; "
                "leave it out of curvature.layers, or set curvature.frozen to explain",
                field="curvature.layers",
            )
    return {name: shape for name, shape in found.items() if any(_is_below(name, p) for p in include)}


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
