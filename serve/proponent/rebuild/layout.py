"""How images lie in memory: with a pixel's channels side by side, convolutions on a processor take up to half less.

It spreads from the inputs through the model. A model may rely on the other layout (``view`` of a feature map refuses
this one), so that it is tried first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.inputs import Inputs
from proponent.classifier import Classifier

CLOSE = 1e-3
"""Of the outputs' size: they are the same but for rounding."""


def channels_last(images: Tensor) -> Tensor:
    """``[B, C, H, W]`` as before, a pixel's channels side by side; also where a single one makes no difference."""
    _, channels, height, width = images.shape
    if channels > 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))


def gains_from_channels_last(classifier: Classifier, layers: Layers, inputs: Inputs) -> bool:
    """Whether a model convolves images on a processor and takes them in this layout.

    Args:
        classifier: Its model is run twice.
        layers: The covered ones.
        inputs: A few examples, ``[B, ...]``.
    """
    modules = (classifier.model.get_submodule(shape.module) for shape in layers.values())
    convolves = any(isinstance(module, nn.Conv2d) for module in modules)
    if not convolves or not isinstance(inputs, Tensor) or inputs.ndim != 4:
        return False
    try:
        outputs = [_outputs(classifier.model, layers, images) for images in (inputs, channels_last(inputs))]
    except Exception:  # the user's code may raise anything
        return False
    return bool((outputs[0] - outputs[1]).norm() <= CLOSE * outputs[0].norm())


def _outputs(model: nn.Module, layers: Layers, images: Tensor) -> Tensor:
    with CaptureSession(model, layers) as session:
        outputs = session.forward(images)
        session.backward(torch.ones_like(outputs))
        return outputs
