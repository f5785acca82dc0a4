"""torchvision's ResNet-50 (He et al. 2016), without pretrained weights."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet50 as torchvision_resnet50

from proponent.models.variants import check_stem, swap_activations


def resnet50(classes: int, stem: str = "imagenet", activation: str = "relu") -> nn.Module:
    """Build ResNet-50; parameter names are torchvision's, so its weight files fit.

    Args:
        classes: Number of classes.
        stem: ``"imagenet"``, or ``"cifar"``: a 3 x 3 first convolution of stride 1 and no max-pooling, for
            images of 32 x 32 pixels.
        activation: ``"relu"`` as published, or the smooth ``"silu"``.

    Returns:
        A model from ``[B, 3, H, W]`` to logits ``[B, classes]``.

    Raises:
        InvalidInputError: If stem or activation is unknown.
    """
    check_stem(stem)
    model: nn.Module = torchvision_resnet50(weights=None, num_classes=classes)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    swap_activations(model, activation)
    return model
