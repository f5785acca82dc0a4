"""Do hooks see what autograd sees, and is every example's gradient its own?

Hooks know a layer by its calls. A weight that is also used outside of its layer's call, an activation whose first
dimension is not the batch, or a normalisation over the batch would give other numbers without any sign of it. So
one batch is checked before a rebuild trusts them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from proponent.attribution.capture import CaptureSession, eager
from proponent.attribution.layer_gradients import LayerGradient, LayerGradients
from proponent.attribution.layers import Layers, flatten
from proponent.errors import ProponentError, SpecError

TOLERANCE = 1e-2
"""Relative; rounding stays far below it, also in half precision."""


def misused_layers(model: nn.Module, layers: Layers, inputs: Tensor, output_gradient: Tensor) -> list[str]:
    """Layers whose calls do not account for the gradient of their weights: these are also used elsewhere.

    Args:
        model: In eval mode.
        layers: The layers to cover.
        inputs: [B, ...].
        output_gradient: Gradient at the outputs, [B, ...], that leaves out no output.
    """
    _, found = _captured(model, layers, inputs, output_gradient)
    expected = _by_autograd(model, layers, inputs, output_gradient)
    return [name for name, gradient in found.items() if not _accounts_for(gradient, expected[name])]


def _accounts_for(gradient: LayerGradient, expected: Tensor) -> bool:
    total, squares = gradient.sum_and_squares()
    return float((total - expected).norm()) <= TOLERANCE * float(squares.sqrt().sum())


def check_examples(model: nn.Module, layers: Layers, inputs: Tensor, output_gradient: Tensor) -> None:
    """Compares examples of a batch with themselves alone; see `misused_layers`.

    Raises:
        SpecError: Outputs or gradients differ by more than `TOLERANCE`; the message names the layer.
    """
    outputs, together = _captured(model, layers, inputs, output_gradient)
    for position in sorted({0, len(inputs) // 2, len(inputs) - 1}) if len(inputs) > 1 else ():
        here = slice(position, position + 1)
        alone = _alone(model, layers, inputs[here], output_gradient[here])
        expected = {name: gradient.examples(here) for name, gradient in together.items()}
        _check_alone(*alone, outputs[here], expected)


def _alone(model: nn.Module, layers: Layers, value: Tensor, output_gradient: Tensor) -> tuple[Tensor, LayerGradients]:
    try:
        return _captured(model, layers, value, output_gradient)
    except (ProponentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise SpecError(
            f"the model fails on one example alone, of shape {list(value.shape)}, though not on a batch: "
            f"normalisation over the batch? {type(error).__name__}: {error}",
            field="model",
        ) from error


def _captured(
    model: nn.Module, layers: Layers, inputs: Tensor, output_gradient: Tensor
) -> tuple[Tensor, LayerGradients]:
    with CaptureSession(model, layers) as session:
        outputs = session.forward(inputs)
        return outputs, session.backward(output_gradient)


def _by_autograd(model: nn.Module, layers: Layers, inputs: Tensor, output_gradient: Tensor) -> dict[str, Tensor]:
    """Gradient of each layer's weights summed over the batch, in matrix form [G, o, i]."""
    names = [name for layer in layers.values() for name in layer.parameter_names]
    with torch.inference_mode(False), torch.enable_grad(), eager():
        parameters = dict(model.named_parameters())
        leaves = {name: parameters[name].detach().clone().requires_grad_() for name in names}
        outputs = functional_call(model, leaves, (inputs,))
        found: tuple[Tensor | None, ...] = (None,) * len(names)
        if outputs.requires_grad:
            seed = output_gradient.to(outputs)
            found = torch.autograd.grad(outputs, list(leaves.values()), seed, allow_unused=True)
    gradients = {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(names, found, strict=True)}
    return {name: flatten(layer, gradients) for name, layer in layers.items()}


def _check_alone(outputs: Tensor, found: LayerGradients, expected_outputs: Tensor, expected: LayerGradients) -> None:
    error, size = float((outputs - expected_outputs).abs().max()), float(expected_outputs.abs().max())
    if not error <= TOLERANCE * max(size, TOLERANCE):
        raise SpecError(
            f"the model's outputs for an example change by {error:.3g} with the batch that it is in (largest output "
            f"{size:.3g}): normalisation over the batch, or something random? Each example needs outputs of its own",
            field="model",
        )
    squares = {name: gradient.sum_and_squares()[1] for name, gradient in expected.items()}
    whole = float(torch.stack(list(squares.values())).sum().sqrt())
    for name, square in squares.items():
        if not bool(square.isfinite().all()):
            raise SpecError(f"layer {name!r}: the gradient of an example is not finite", field="model")
    for name, gradient in found.items():
        error = float((gradient.dense() - expected[name].dense()).norm())
        if not error <= TOLERANCE * whole:
            raise SpecError(
                f"layer {name!r}: the gradient of an example changes by {error:.3g} of {whole:.3g} with the batch "
                "that it is in: the first dimension of the layer's inputs must be the batch",
                field="curvature.layers",
            )
