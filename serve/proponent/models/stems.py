"""The first layers of an image network: for ImageNet's large images, or for CIFAR's 32 x 32 pixels."""

from __future__ import annotations

from proponent.errors import InvalidInputError

STEMS = ("cifar", "imagenet")


def check_stem(stem: str) -> None:
    """Refuse an unknown stem.

    Raises:
        InvalidInputError: If it is neither ``cifar`` nor ``imagenet``.
    """
    if stem not in STEMS:
        raise InvalidInputError(f"Unknown stem {stem!r}, expected one of {STEMS}.", field="stem")
