"""Random changes to a batch of training images, drawn from an explicit generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PADDING = 4


def flip_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability 1/2 and crop it at random after zero padding by 4 pixels.

    Args:
        images: ``[B, C, H, W]``.
        generator: CPU generator to draw from.

    Returns:
        New images ``[B, C, H, W]``.
    """
    count, _, height, width = images.shape
    mirror = torch.rand(count, generator=generator) < 0.5
    top, left = torch.randint(2 * _PADDING + 1, (2, count), generator=generator)
    flipped = torch.where(mirror.to(images.device)[:, None, None, None], images.flip(3), images)
    windows = functional.pad(flipped, (_PADDING,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count), :, top, left]
