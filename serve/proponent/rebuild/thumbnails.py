"""Small pictures of training examples, for catalogs."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

THUMBNAIL = 64
LEVEL = 3
"""Of compression: files as small as at the default level 6, of digits in two thirds of the time."""


def thumbnail(raw: Any, size: int = THUMBNAIL) -> bytes:
    """A PNG of an example, at most ``size`` pixels wide and high; tensors are shown with their range stretched.

    Empty for what is no picture: a tensor of another form than [1 or 3, height, width].
    """
    image = _as_image(raw)
    if image is None:
        return b""
    small = image if image.mode in ("L", "RGB") else image.convert("RGB")
    if max(small.size) > size:
        small = small.copy()
        small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", compress_level=LEVEL)
    return buffer.getvalue()


def _as_image(raw: Any) -> Image.Image | None:
    if isinstance(raw, Image.Image):
        return raw
    if not isinstance(raw, Tensor):
        return Image.fromarray(raw)
    if raw.ndim != 3 or raw.shape[0] not in (1, 3):
        return None
    low, high = raw.min(), raw.max()
    scaled = (raw - low) / torch.where(high > low, high - low, torch.ones_like(high))
    pixels = (scaled * 255).round().to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
