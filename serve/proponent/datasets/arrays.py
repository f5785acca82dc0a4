"""Images held as one uint8 array, and the fixed stratified split of such arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proponent.errors import InvalidInputError


class ArrayImages:
    """A dataset over arrays in memory.

    Attributes:
        images: ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
        labels: ``[N]`` int64.
        class_names: Name of each class.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer],
        class_names: Sequence[str],
        *,
        name: str,
        file: str,
        numbers: NDArray[np.integer] | None = None,
    ) -> None:
        """Wrap arrays.

        Args:
            images: ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
            labels: ``[N]``, integers below ``len(class_names)``.
            class_names: Name of each class.
            name: First part of every example id.
            file: First part of every source.
            numbers: ``[N]``, each row's index in the file; ``0..N-1`` when ``None``. It makes the id, so
                that a subset keeps the ids of the whole.

        Raises:
            InvalidInputError: If shapes, dtype or labels do not fit.
        """
        _check(images, labels, len(class_names), file)
        self.images = images
        self.labels = labels.astype(np.int64)
        self.class_names = list(class_names)
        self._name = name
        self._file = file
        self._numbers = np.arange(len(images)) if numbers is None else numbers

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image (mode L or RGB) and its label."""
        return Image.fromarray(self.images[index]), int(self.labels[index])

    def example_id(self, index: int) -> str:
        """``name-number``, the number padded to at least four digits."""
        return f"{self._name}-{int(self._numbers[index]):04d}"

    def source(self, index: int) -> str:
        """``file#number``."""
        return f"{self._file}#{int(self._numbers[index])}"

    def take(self, indices: NDArray[np.integer] | slice) -> ArrayImages:
        """A dataset of some rows, in the given order; ids and sources stay those of the whole."""
        return ArrayImages(
            self.images[indices],
            self.labels[indices],
            self.class_names,
            name=self._name,
            file=self._file,
            numbers=self._numbers[indices],
        )


def _check(images: NDArray[np.uint8], labels: NDArray[np.integer], classes: int, file: str) -> None:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise InvalidInputError(
            f"Images of {file} are {images.dtype} {list(images.shape)}, expected uint8 [N, H, W] or [N, H, W, 3].",
            field=file,
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInputError(
            f"Labels of {file} are {labels.dtype} {list(labels.shape)}, "
            f"expected integers [{len(images)}], one per image.",
            field=file,
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InvalidInputError(
            f"Labels of {file} span {labels.min()}..{labels.max()}, expected 0..{classes - 1}.", field=file
        )


def stratified_split(
    labels: NDArray[np.integer], held_out: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split so that every class has the same share on both sides.

    Uses NumPy's legacy generator, whose stream is frozen, so that the split never changes with a release.

    Args:
        labels: ``[N]`` integers.
        held_out: Number of examples to hold out.
        seed: Seed of the shuffle within each class.

    Returns:
        Training and held-out positions. Classes alternate in both, so any first n are balanced too.
    """
    random = np.random.RandomState(seed)
    place = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.argsort(place, kind="stable")
    return order[held_out:], order[:held_out]
