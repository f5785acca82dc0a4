"""Photographs of motorbikes and fruit at 30 x 30 pixels, a binary problem.

Two cautions for whoever reads results: the classes are easy to separate, and all of the fruit but only
22 % of the motorbikes have white corners, so that influence may follow the background.
"""

from __future__ import annotations

from proponent.datasets.arrays import ArrayImages, stratified_split
from proponent.datasets.location import data_file
from proponent.datasets.npz import read_arrays

CLASS_NAMES = ["motorbike", "fruit"]
FILE = "motorbike_fruit_30px.npz"
HELD_OUT = 358
_SEED = 0


def train(root: str | None = None, limit: int | None = None) -> ArrayImages:
    """The 1,430 training images, or the first ``limit``; ids ``motorbike-fruit-0012``.

    Raises:
        NotFoundError: If the file is missing; ``root=None`` means ``PROPONENT_DATA``.
    """
    images = _all(root)
    return images.take(stratified_split(images.labels, HELD_OUT, _SEED)[0][:limit])


def test(root: str | None = None, limit: int | None = None) -> ArrayImages:
    """The 358 held-out images, or the first ``limit``.

    Raises:
        NotFoundError: If the file is missing; ``root=None`` means ``PROPONENT_DATA``.
    """
    images = _all(root)
    return images.take(stratified_split(images.labels, HELD_OUT, _SEED)[1][:limit])


def _all(root: str | None) -> ArrayImages:
    path = data_file(root, FILE)
    images, labels = read_arrays(path, "x", "y")
    return ArrayImages(images, labels, CLASS_NAMES, name="motorbike-fruit", file=str(path))
