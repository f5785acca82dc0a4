"""Do hooks see what autograd sees, and is every example's gradient its own?

Hooks know a layer by its calls. A weight that is also used outside of its layer's call, an activation whose first
dimension is not the batch, or a normalisation over the batch would give other numbers without any sign of it. So
one batch is checked before a rebuild trusts them.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from math import hypot, isfinite

import torch
from torch import Tensor, nn

from proponent.attribution.functional import call_with
from proponent.attribution.gradients.capture import MISUSED, CaptureSession, eager
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerGradients
from proponent.attribution.gradients.layers import Layers, flatten
from proponent.attribution.gradients.pullback import pulled_back
from proponent.attribution.inputs import Inputs, shapes
from proponent.errors import ProponentError, SpecError

TOLERANCE = 1e-2
"""Relative; rounding stays far below it, also in half precision."""
OWN, NOISE = 0.1, 1e-5
"""Of a layer's own gradient, and of that of all layers: a small one may be what rounding left of larger numbers."""


@dataclass(frozen=True)
class _Trial:
    """What hooks see of some inputs: the outputs, layers without gradients and why, gradients of the others."""

    outputs: Tensor
    problems: dict[str, str]
    gradients: LayerGradients


def unsound_layers(
    model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor, *, brief: bool = False
) -> dict[str, str]:
    """Layers that hooks get wrong, by name, and why; the gradients of the others are right without them.

    Args:
        model: In eval mode.
        layers: The layers to cover.
        inputs: [B, ...].
        output_gradient: Gradient at the outputs, [B, ...], that leaves out no output.
        brief: Whether to try one example alone instead of three, and none in another order.

    Raises:
        SpecError: An example's outputs depend on the batch that it is in, or its gradient is not finite.
    """
    found, together = _together(model, layers, inputs, output_gradient)
    positions = sorted({0, len(inputs) // 2, len(inputs) - 1}) if len(inputs) > 1 else []
    alone = {
        position: _alone(model, layers, inputs[_only(position)], output_gradient[_only(position)])
        for position in positions[: 1 if brief else None]
    }
    for position, trial in alone.items():
        _check_outputs(trial.outputs, together.outputs[_only(position)])
        found |= {name: why for name, why in trial.problems.items() if name not in found}
    left = {name: layer for name, layer in layers.items() if name not in found}
    for position, trial in alone.items():
        found |= _changed(_some(trial.gradients, left), _of(_some(together.gradients, left), _only(position)))
    if not brief:
        # A model that sorts its examples may leave some of them in their places, but not those in reverse as well.
        reverse = _tried(model, left, inputs.flip(0), output_gradient.flip(0)).gradients
        for position, trial in alone.items():
            there = _only(len(inputs) - 1 - position)
            found |= _changed(_some(trial.gradients, left), _of(_some(reverse, left), there))
    return found | _misused(model, left, inputs, output_gradient, _some(together.gradients, left))


def _together(
    model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor
) -> tuple[dict[str, str], _Trial]:
    """Layers without gradients in a batch and why, and what hooks see without those that make the model fail."""
    failing = dict[str, str]()
    try:
        trial = _tried(model, layers, inputs, output_gradient)
    except (ProponentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # the user's code may raise anything
        failing = _failing(model, layers, inputs, output_gradient)
        left = {name: layer for name, layer in layers.items() if name not in failing}
        trial = _tried(model, left, inputs, output_gradient)
    return failing | trial.problems, trial


def _tried(model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor) -> _Trial:
    with CaptureSession(model, layers) as session:
        outputs = session.forward(inputs.clone())  # a model may change its inputs in place
        _check_shape(outputs, output_gradient)
        problems = session.problems() | session.misuses()
        session.leave_out(problems)
        return _Trial(outputs, problems, session.backward(output_gradient))


def _some(gradients: LayerGradients, names: Container[str]) -> LayerGradients:
    return {name: gradient for name, gradient in gradients.items() if name in names}


def unused_layers(model: nn.Module, layers: Layers, inputs: Inputs) -> set[str]:
    """Layers that the model does not apply to some inputs, by name."""
    with CaptureSession(model, layers) as session:
        session.forward(inputs.clone())
        return session.unused()


def any_gradient(outputs: Tensor) -> Tensor:
    """A seeded one at some outputs: that of the loss may be flat there."""
    return torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)


def _only(position: int) -> slice:
    return slice(position, position + 1)


def _of(gradients: LayerGradients, examples: slice) -> LayerGradients:
    return {name: gradient.examples(examples) for name, gradient in gradients.items()}


def _failing(model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor) -> dict[str, str]:
    """Layers whose hooks make the model fail; none where it fails whatever is hooked."""
    failures = {name: _failure(model, {name: layer}, inputs, output_gradient) for name, layer in layers.items()}
    found = {name: f"the model fails when its calls are seen: {why}" for name, why in failures.items() if why}
    return found if len(found) < len(layers) else {}


def _failure(model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor) -> str | None:
    try:
        _tried(model, layers, inputs, output_gradient)
    except (ProponentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _misused(
    model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor, found: LayerGradients
) -> dict[str, str]:
    """Layers whose calls do not account for the gradient of their weights."""
    if not found:
        return {}
    expected = _by_autograd(model, layers, inputs, output_gradient)
    return {name: MISUSED for name, gradient in found.items() if not _accounts_for(gradient, expected[name])}


def _accounts_for(gradient: LayerGradient, expected: Tensor) -> bool:
    total, squares = gradient.sum_and_squares()
    # What is not finite is told by other checks, in other words.
    return not float((total - expected).norm()) > TOLERANCE * float(squares.sqrt().sum())


def _alone(model: nn.Module, layers: Layers, value: Inputs, output_gradient: Tensor) -> _Trial:
    try:
        return _together(model, layers, value, output_gradient)[1]
    except (ProponentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise SpecError(
            f"the model fails on one example alone, of shape {shapes(value)}, though not on a batch: "
            f"normalisation over the batch? {type(error).__name__}: {error}",
            field="model",
        ) from error


def _by_autograd(model: nn.Module, layers: Layers, inputs: Inputs, output_gradient: Tensor) -> dict[str, Tensor]:
    """Gradient of each layer's weights summed over the batch, in matrix form [G, o, i]."""
    names = list(dict.fromkeys(name for layer in layers.values() for name in layer.parameter_names))
    with torch.inference_mode(False), torch.enable_grad(), eager():
        parameters = dict(model.named_parameters())
        leaves = {name: parameters[name].detach().clone().requires_grad_() for name in names}
        outputs = call_with(model, leaves, inputs.clone())
        found: tuple[Tensor | None, ...] = (None,) * len(names)
        if outputs.requires_grad:
            found = pulled_back(outputs, list(leaves.values()), output_gradient)
    gradients = {
        n: torch.zeros_like(leaves[n]) if g is None else g.to_dense() for n, g in zip(names, found, strict=True)
    }
    return {name: flatten(layer, gradients) for name, layer in layers.items()}


def _check_shape(outputs: Tensor, expected: Tensor) -> None:
    if outputs.shape != expected.shape:
        raise SpecError(
            f"the model's outputs for a batch of {len(expected)} have shape {list(outputs.shape)}, expected "
            f"{list(expected.shape)}: does a squeeze take the batch away? Name the dimension that it is to take",
            field="model",
        )


def _check_outputs(outputs: Tensor, expected: Tensor) -> None:
    error, size = float((outputs - expected).abs().max()), float(expected.abs().max())
    if not error <= TOLERANCE * max(size, TOLERANCE):
        raise SpecError(
            f"the model's outputs for an example change by {error:.3g} with the batch that it is in (largest output "
            f"{size:.3g}): normalisation over the batch, or something random? Each example needs outputs of its own",
            field="model",
        )


def _changed(found: LayerGradients, expected: LayerGradients) -> dict[str, str]:
    """Layers at which one example's gradient is another in a batch than alone."""
    norms = {name: float(gradient.sum_and_squares()[1].sum().sqrt()) for name, gradient in expected.items()}
    for name, norm in norms.items():
        if not isfinite(norm):
            raise SpecError(f"layer {name!r}: the gradient of an example is not finite", field="model")
    whole = hypot(*norms.values())
    errors = {name: float((gradient.dense() - expected[name].dense()).norm()) for name, gradient in found.items()}
    why = "the first dimension of the layer's inputs must be the batch"
    return {
        name: f"the gradient of an example changes by {error:.3g} of {norms[name]:.3g} with the batch that it is in: "
        + why
        for name, error in errors.items()
        if not error <= min(TOLERANCE * whole, OWN * norms[name] + NOISE * whole)
    }
