"""Gradients of a model's layers by one forward and one backward."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import Layers


def capture(
    model: nn.Module, inputs: Tensor, output_gradient: Callable[[Tensor], Tensor], layers: Layers
) -> tuple[Tensor, LayerGradients]:
    """Outputs [B, ...], detached, and the gradients by layer, at a gradient that may depend on the outputs."""
    with CaptureSession(model, layers) as session:
        outputs = session.forward(inputs)
        return outputs, session.backward(output_gradient(outputs))
