"""What a torchvision model may have changed: its stem (ImageNet's, or one for 32 x 32 pixels) and its activations.

Activations are never in place: hooks on the layer before must see its output unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from proponent.errors import InvalidInputError

STEMS = ("cifar", "imagenet")
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


def activation(name: str) -> nn.Module:
    """A new activation module.

    Raises:
        InvalidInputError: If the name is neither ``relu`` nor ``silu``.
    """
    if name not in _ACTIVATIONS:
        raise InvalidInputError(
            f"Unknown activation {name!r}, expected one of {tuple(_ACTIVATIONS)}.", field="activation"
        )
    return _ACTIVATIONS[name]()


def swap_activations(model: nn.Module, name: str) -> None:
    """Replace every ReLU and SiLU in a model, in-place ones too, by the named activation out of place."""
    for parent in list(model.modules()):
        for child_name, child in parent.named_children():
            if isinstance(child, (nn.ReLU, nn.SiLU)):
                setattr(parent, child_name, activation(name))


def check_stem(stem: str) -> None:
    """Refuse an unknown stem.

    Raises:
        InvalidInputError: If it is neither ``cifar`` nor ``imagenet``.
    """
    if stem not in STEMS:
        raise InvalidInputError(f"Unknown stem {stem!r}, expected one of {STEMS}.", field="stem")
