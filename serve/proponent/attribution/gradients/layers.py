"""Which layers attribution covers, and the one order of their parameters.

A covered layer's parameters form a matrix ``[G, o, i]``: G groups (1 unless a grouped convolution), o outputs
and i inputs per group, the bias being the **last column** if there is one. A Linear is ``[1, out, in + 1]``,
a Conv2d ``[G, out / G, (in / G) * kh * kw + 1]``. A frozen bias has no column, and where only the bias is trained
it is the only one. Scales and shifts of a normalisation are one column, ``[1, 2 C, 1]``; a multi-head attention is
four layers, the linear maps of query, key, value and output. Flat vectors ``[P]`` concatenate these matrices,
row-major, layer by layer in the order of the ``layers`` mapping.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from proponent.attribution.gradients.families import (
    DEFAULT_FAMILIES,
    PROJECTIONS,
    Form,
    family_of,
    form_of,
    is_output_projection,
)
from proponent.errors import SpecError


@dataclass(frozen=True)
class Part:
    """Rows of a parameter, all of them where none are named."""

    name: str
    rows: tuple[int, int] | None = None

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The rows, out of named parameters (or gradients)."""
        whole = parameters[self.name]
        return whole if self.rows is None else whole[slice(*self.rows)]


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
        form: How weight and bias lie in the matrix; of a ``VECTOR`` both are the only column.
        attention: Qualified name of the multi-head attention that applies the layer; None: the layer is a module.
        projection: Weight and bias of a map to queries, keys or values; None: they bear the layer's name.
    """

    name: str
    groups: int
    out: int
    inputs: int
    has_bias: bool
    weight_shape: tuple[int, ...]
    has_weight: bool = True
    form: Form = Form.ROWS
    attention: str | None = None
    projection: tuple[Part, Part] | None = None

    @property
    def numel(self) -> int:
        """Number of parameters."""
        return self.groups * self.out * self.inputs

    @property
    def weight(self) -> Part:
        """The weight, whether or not it is covered."""
        return self.projection[0] if self.projection else Part(_below(self.name, "weight"))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parameters covered, or the rows of them, weight first."""
        bias = self.projection[1] if self.projection else Part(_below(self.name, "bias"))
        return (self.weight,) * self.has_weight + (bias,) * self.has_bias

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Qualified names of the parameters covered."""
        return tuple(part.name for part in self.parts)

    @property
    def has_bias_column(self) -> bool:
        """Whether the last of the inputs is one."""
        return self.has_bias or self.form is Form.VECTOR

    @property
    def module(self) -> str:
        """Qualified name of the module that applies the layer."""
        return self.name if self.attention is None else self.attention

    @property
    def unit(self) -> str:
        """What is covered or left out as one: maps to queries, keys and values may share their parameters."""
        return self.name if self.projection is None else self.name.rpartition(".")[0]


Layers = Mapping[str, LayerShape]


def find_layers(
    model: nn.Module,
    include: Sequence[str] | None = None,
    *,
    frozen: bool = False,
    families: Collection[str] = DEFAULT_FAMILIES,
) -> dict[str, LayerShape]:
    """Layers whose per-example gradients `capture` can compute.

    Left out are frozen parameters (training does not change them, so no example can have), subclasses and
    parametrised layers (they may compute something else), layers without own weights, and layers that share a
    parameter with another module; `uncovered` and `frozen_parameters` name what they hold.

    Args:
        model: Any module.
        include: Qualified names; only layers that equal or lie below one of them. None takes all.
        frozen: Whether to take parameters with ``requires_grad=False`` as if they were trained.
        families: See `proponent.attribution.gradients.families`.

    Returns:
        Layer name to shape, in the order of ``model.named_modules()``.

    Raises:
        SpecError: If a name in ``include`` matches no layer, or frozen ones alone.
    """
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    shapes = {
        shape.name: shape
        for name, module in model.named_modules()
        if family_of(module) in families
        for shape in _shapes(name, module, frozen)
        if all(owners[id(p)] == 1 for p in model.get_submodule(shape.module).parameters())
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
    if layer.form is Form.VECTOR:
        size = prod(layer.weight_shape)
        weight, bias = dense[..., : size * layer.has_weight, :], dense[..., size * layer.has_weight :, :]
    else:
        weight, bias = dense[..., :width], dense[..., width:]
    if layer.form is Form.COLUMNS and layer.has_weight:
        inputs = layer.weight_shape[0] // layer.groups
        weight = weight.reshape(*weight.shape[:-1], inputs, width // inputs).transpose(-3, -2)
    bias_shape = layer.weight_shape if layer.form is Form.VECTOR else (layer.groups * layer.out,)
    return (
        weight.reshape(*lead, *layer.weight_shape) if layer.has_weight else None,
        bias.reshape(*lead, *bias_shape) if layer.has_bias else None,
    )


def flatten(layer: LayerShape, parameters: Mapping[str, Tensor]) -> Tensor:
    """Inverse of `unflatten`: the matrix form ``[G, o, i]`` of a layer's named parameters (or gradients)."""
    values = [part.of(parameters) for part in layer.parts]
    if layer.form is Form.VECTOR:
        return torch.cat([value.reshape(-1) for value in values])[None, :, None]
    if layer.form is Form.COLUMNS and layer.has_weight:
        values[0] = values[0].reshape(layer.groups, -1, layer.out, prod(layer.weight_shape[2:])).transpose(1, 2)
    return torch.cat([value.reshape(layer.groups, layer.out, -1) for value in values], dim=2)


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
    named: dict[str, list[Tensor]] = defaultdict(list)
    for name, dense in split_flat(flat, layers).items():
        parts = [part for part in unflatten(layers[name], dense) if part is not None]
        for parameter, part in zip(layers[name].parameter_names, parts, strict=True):
            named[parameter].append(part)
    # Several where maps to queries, keys and values share a parameter, whose rows they have in this order.
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in named.items()}


def _shapes(name: str, module: nn.Module, frozen: bool) -> Iterator[LayerShape]:
    family = family_of(module)
    if isinstance(module, nn.MultiheadAttention):
        yield from _projections(name, module, frozen)
    elif family is not None:
        yield _shape(name, module, form_of(family), frozen)


def _shape(name: str, module: nn.Module, form: Form, frozen: bool, *, attention: str | None = None) -> LayerShape:
    weight, bias = module._parameters["weight"], module._parameters.get("bias")
    assert weight is not None  # by family_of
    has_weight, has_bias = (value is not None and (frozen or value.requires_grad) for value in (weight, bias))
    shape, groups = tuple(weight.shape), getattr(module, "groups", 1)
    if form is Form.VECTOR:
        return LayerShape(name, 1, weight.numel() * (has_weight + has_bias), 1, has_bias, shape, has_weight, form)
    if form is Form.COLUMNS:
        out, inputs = shape[1], weight.numel() // (groups * shape[1])
    else:
        out, inputs = shape[0] // groups, prod(shape[1:])
    inputs = inputs * has_weight + has_bias
    return LayerShape(name, groups, out, inputs, has_bias, shape, has_weight, form, attention)


def _projections(name: str, module: nn.MultiheadAttention, frozen: bool) -> Iterator[LayerShape]:
    """The linear maps of an attention, which it applies itself."""
    size, packed, bias = module.embed_dim, module.in_proj_weight, module.in_proj_bias
    has_bias = bias is not None and (frozen or bias.requires_grad)
    for number, which in enumerate(PROJECTIONS):
        rows = (number * size, (number + 1) * size)
        own = f"{which[0]}_proj_weight"
        weight = module._parameters[own] if packed is None else packed[slice(*rows)]
        part = Part(_below(name, own)) if packed is None else Part(_below(name, "in_proj_weight"), rows)
        source = weight if packed is None else packed
        assert weight is not None and source is not None  # one of them is there
        has_weight = frozen or source.requires_grad
        inputs = weight.shape[1] * has_weight + has_bias
        parts = (part, Part(_below(name, "in_proj_bias"), rows))
        shape = tuple(weight.shape)
        yield LayerShape(
            _below(name, f"in_proj.{which}"), 1, size, inputs, has_bias, shape, has_weight, Form.ROWS, name, parts
        )
    if is_output_projection(module.out_proj):
        yield _shape(_below(name, "out_proj"), module.out_proj, Form.ROWS, frozen, attention=name)


def _below(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _restrict(found: dict[str, LayerShape], include: Sequence[str]) -> dict[str, LayerShape]:
    for prefix in include:
        named = [shape for shape in found.values() if is_below(shape.unit, prefix)]
        if not named:
            known = ", ".join(found) or "none"
            raise SpecError(f"No layer {prefix!r} to cover: known layers are {known}.", field="curvature.layers")
        if not any(shape.parameter_names for shape in named):
            raise SpecError(
                f"layer {prefix!r} is frozen (requires_grad=False): training did not change it, so no example did; "
                "leave it out of curvature.layers, or set curvature.frozen to explain",
                field="curvature.layers",
            )
    return {name: shape for name, shape in found.items() if any(is_below(shape.unit, p) for p in include)}


def is_below(name: str, prefix: str) -> bool:
    """Whether a module is another one or a part of it, by their qualified names."""
    return name == prefix or name.startswith(f"{prefix}.")
