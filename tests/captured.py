"""Gradients of a model's layers by one forward and one backward, and the check of them against vmap(grad)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

import oracle
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.families import DEFAULT_FAMILIES
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import Layers, find_layers, unflatten
from proponent.attribution.losses import get_loss

CROSS_ENTROPY = get_loss("cross_entropy")
# Sums of a few hundred float64 products in another order.
TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-12}


def capture(
    model: nn.Module, inputs: Tensor, output_gradient: Callable[[Tensor], Tensor], layers: Layers
) -> tuple[Tensor, LayerGradients]:
    """Outputs [B, ...], detached, and the gradients by layer, at a gradient that may depend on the outputs."""
    with CaptureSession(model, layers) as session:
        outputs = session.forward(inputs)
        return outputs, session.backward(output_gradient(outputs))


def check_against_oracle(
    model: nn.Module, inputs: Tensor, labels: Tensor, families: Collection[str] = DEFAULT_FAMILIES
) -> LayerGradients:
    """Compares the gradients of all layers, frozen ones too, and their order with torch.func's; returns them."""
    expected = oracle.per_example_gradients(model, CROSS_ENTROPY.per_example, inputs, labels)
    layers = find_layers(model, frozen=True, families=families)
    gradients = capture(model, inputs, lambda z: CROSS_ENTROPY.output_gradient(z, labels), layers)[1]
    for gradient in gradients.values():
        found = [part for part in unflatten(gradient.shape, gradient.dense()) if part is not None]
        for part, value in zip(gradient.shape.parts, found, strict=True):
            rows = slice(None) if part.rows is None else slice(*part.rows)
            torch.testing.assert_close(value, expected[part.name][:, rows], **TIGHT)
    entries = oracle.order(model, {name: layer.groups for name, layer in layers.items()})
    torch.testing.assert_close(flat_gradients(gradients), oracle.flat(expected, entries), **TIGHT)
    return gradients
