"""torchvision's EfficientNet-B0 (Tan & Le 2019), without pretrained weights."""

from __future__ import annotations

from torch import nn
from torchvision.models import efficientnet_b0 as torchvision_efficientnet_b0

from proponent.models.variants import check_stem, swap_activations


def efficientnet_b0(classes: int, stem: str = "imagenet", activation: str = "silu") -> nn.Module:
    """Build EfficientNet-B0; parameter names are torchvision's, so its weight files fit.

    Args:
        classes: Number of classes.
        stem: ``"imagenet"``, or ``"cifar"``: a first convolution of stride 1, for images of 32 x 32 pixels.
        activation: ``"silu"`` as published, or ``"relu"``; the sigmoid gates stay.

    Returns:
        A model from ``[B, 3, H, W]`` to logits ``[B, classes]``.

    Raises:
        InvalidInputError: If stem or activation is unknown.
    """
    check_stem(stem)
    network = torchvision_efficientnet_b0(weights=None, num_classes=classes)
    if stem == "cifar":
        network.features[0][0].stride = (1, 1)
    model: nn.Module = network
    swap_activations(model, activation)
    return model
