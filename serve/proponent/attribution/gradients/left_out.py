"""Why trained parameters take no part in an explanation, module by module."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from proponent.attribution.gradients.families import derived_tensors, family_of, is_output_projection
from proponent.attribution.gradients.layers import Layers, is_below


def left_out_modules(
    model: nn.Module,
    layers: Layers,
    unsound: Mapping[str, str],
    *,
    include: Sequence[str] | None,
    frozen: bool,
    families: Collection[str],
) -> dict[str, str]:
    """Modules that hold trained parameters which are not covered, and why not.

    Args:
        model: The model.
        layers: What is covered.
        unsound: Layers that hooks get wrong, and why.
        include: Names that the layers were restricted to; what is outside of them is left out on purpose, and not
            listed.
        frozen: Whether frozen parameters count as trained.
        families: What was to be covered.

    Returns:
        Qualified name to reason; the model itself is called ``model``.
    """
    covered = {name for layer in layers.values() for name in layer.parameter_names}
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        own = [
            parameter
            for parameter, value in module.named_parameters(prefix=name, recurse=False)
            if (frozen or value.requires_grad) and parameter not in covered
        ]
        if own and (include is None or any(is_below(name, prefix) for prefix in include)):
            found[name or "model"] = _reason(name, module, unsound, families, own)
    return found


def _reason(
    name: str, module: nn.Module, unsound: Mapping[str, str], families: Collection[str], own: Sequence[str]
) -> str:
    mistaken = [why for layer, why in unsound.items() if layer == name or layer.startswith(f"{name}.in_proj.")]
    family, kind = family_of(module), type(module).__name__
    if mistaken:
        return mistaken[0]
    if derived := derived_tensors(module):
        return f"its {', '.join(derived)} comes from other parameters (weight_norm, pruning and the like)"
    if is_output_projection(module):
        return "it belongs to an attention that is not covered"
    if family is None:
        return f"{kind} is not of a family that can be covered"
    if family not in families:
        return f"{family} is not in curvature.cover"
    if isinstance(module, nn.MultiheadAttention):
        return f"{', '.join(parameter.rpartition('.')[2] for parameter in own)} of an attention cannot be covered"
    return "it shares a parameter with another module"
