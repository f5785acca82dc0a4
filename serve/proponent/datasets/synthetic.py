"""Coloured shapes drawn from a seed: a data set that needs no file, with planted label noise on request."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from proponent.datasets.arrays import ArrayImages
from proponent.errors import InvalidInputError

CLASS_NAMES = ["disc", "square", "triangle", "cross"]
_OVERSAMPLING = 4
_NOISE = 12.0


class ShapeImages(ArrayImages):
    """Shapes whose true labels are known.

    Attributes:
        clean_labels: ``[N]`` int64, before label noise.
        flipped: Positions whose label was changed, ascending int64.
    """

    clean_labels: NDArray[np.int64]
    flipped: NDArray[np.int64]


def shapes(
    count: int = 200, size: int = 16, classes: int = 4, seed: int = 0, flip_fraction: float = 0.0
) -> ShapeImages:
    """Draw shapes of random colour, place, size and noise; classes alternate.

    The images do not depend on ``flip_fraction``. Ids are ``shapes-<seed>-0012``.

    Args:
        count: Number of images N.
        size: Height and width in pixels.
        classes: Number of classes, 2 to 4.
        seed: Seed of everything random.
        flip_fraction: Share of labels to replace by another class, at random.

    Returns:
        The dataset; ``flipped`` tells which labels were changed.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    _check(count, size, classes, flip_fraction)
    random = np.random.RandomState(seed)
    clean = np.arange(count, dtype=np.int64) % classes
    images = np.stack([_draw(CLASS_NAMES[label], size, random) for label in clean])
    flipped = np.sort(random.permutation(count)[: round(flip_fraction * count)]).astype(np.int64)
    labels = clean.copy()
    labels[flipped] = (clean[flipped] + random.randint(1, classes, len(flipped))) % classes
    dataset = ShapeImages(images, labels, CLASS_NAMES[:classes], name=f"shapes-{seed}", file=f"synthetic-{seed}")
    dataset.clean_labels = clean
    dataset.flipped = flipped
    return dataset


def _check(count: int, size: int, classes: int, flip_fraction: float) -> None:
    if count < 1 or size < 8 or not 2 <= classes <= len(CLASS_NAMES) or not 0 <= flip_fraction <= 1:
        raise InvalidInputError(
            f"Got count={count}, size={size}, classes={classes}, flip_fraction={flip_fraction}; expected "
            f"count >= 1, size >= 8, classes 2..{len(CLASS_NAMES)}, flip_fraction 0..1."
        )


def _draw(shape: str, size: int, random: np.random.RandomState) -> NDArray[np.uint8]:
    """One image ``[size, size, 3]``; drawn larger, then shrunk, for smooth edges at every size."""
    side = size * _OVERSAMPLING
    background, colour = random.randint(0, 90, 3), random.randint(120, 256, 3)
    radius = side * random.uniform(0.22, 0.34)
    x, y = random.uniform(radius, side - radius, 2)
    canvas = Image.new("RGB", (side, side), _rgb(background))
    _PAINTERS[shape](ImageDraw.Draw(canvas), x, y, radius, _rgb(colour))
    pixels = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    return (pixels + random.normal(0, _NOISE, pixels.shape)).round().clip(0, 255).astype(np.uint8)


def _rgb(values: NDArray[np.int_]) -> tuple[int, int, int]:
    red, green, blue = values.tolist()
    return red, green, blue


_Painter = Callable[[ImageDraw.ImageDraw, float, float, float, tuple[int, int, int]], None]


def _disc(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]) -> None:
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _square(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]) -> None:
    canvas.rectangle((x - r, y - r, x + r, y + r), fill=fill)


def _triangle(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]) -> None:
    canvas.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)


def _cross(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: tuple[int, int, int]) -> None:
    canvas.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
    canvas.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=fill)


_PAINTERS: dict[str, _Painter] = {"disc": _disc, "square": _square, "triangle": _triangle, "cross": _cross}
