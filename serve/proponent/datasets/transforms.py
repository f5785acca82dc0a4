"""Images as a model reads them: turned upright, and the transforms that the presets name in explain.yaml."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from proponent.datasets.protocol import Transform
from proponent.errors import InvalidInputError

_MODES = {1: "L", 3: "RGB"}


def upright(image: Image.Image) -> Image.Image:
    """The picture as viewers show it: cameras store how they were held beside pixels that lie on their side.

    Datasets of image files do the same, so that a model is asked what it was trained on. A note that cannot be read
    turns nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged notes, which say nothing of the pixels
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # its readers of notes raise whatever a damaged one makes of them
            return image


def pixels(image: Image.Image) -> Tensor:
    """Scale pixels to [0, 1].

    Args:
        image: Any mode; L stays one channel, all other modes are converted to RGB.

    Returns:
        ``[C, H, W]`` float32 with C = 1 or 3.
    """
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    array = np.array(plain, dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def converted(mode: str, size: Sequence[int]) -> Transform:
    """Make ``pixels`` after conversion to one mode and size, so that any upload fits the model.

    An image that has the mode and the size already is untouched.

    Args:
        mode: ``"L"`` or ``"RGB"``.
        size: Height and width.

    Raises:
        InvalidInputError: If the mode is another one.
    """
    if mode not in _MODES.values():
        raise InvalidInputError(f"Unknown image mode {mode!r}, expected 'L' or 'RGB'.", field="mode")
    height, width = size

    def transform(image: Image.Image) -> Tensor:
        same_mode = image if image.mode == mode else image.convert(mode)
        if same_mode.size == (width, height):
            return pixels(same_mode)
        return pixels(same_mode.resize((width, height), Image.Resampling.BILINEAR))

    return transform


def normalized(mean: Sequence[float], std: Sequence[float], size: Sequence[int] | None = None) -> Transform:
    """Make a transform to ``(pixels - mean) / std``, channel by channel.

    Args:
        mean: One mean per channel, for pixels in [0, 1]; one channel means mode L, three RGB.
        std: One standard deviation per channel.
        size: Height and width to resize to; ``None`` keeps the image's own.

    Returns:
        A callable from an image to ``[C, H, W]`` float32.

    Raises:
        InvalidInputError: If the lengths differ or are neither 1 nor 3, or a deviation is not positive.
    """
    if len(mean) != len(std) or len(mean) not in _MODES:
        raise InvalidInputError(
            f"Got {len(mean)} means and {len(std)} deviations, expected one or three of each.", field="mean"
        )
    if min(std) <= 0:
        raise InvalidInputError(f"Standard deviations must be positive, got {list(std)}.", field="std")
    mode = _MODES[len(mean)]
    shift = torch.tensor(mean, dtype=torch.float32)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32)[:, None, None]

    def transform(image: Image.Image) -> Tensor:
        shape = size if size is not None else (image.height, image.width)
        return (converted(mode, shape)(image) - shift) / scale

    return transform
