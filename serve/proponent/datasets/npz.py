"""Images and labels in a NumPy ``.npz`` file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proponent.datasets.arrays import ArrayImages
from proponent.errors import InvalidInputError, NotFoundError


def open_file(
    path: str,
    images: str = "x",
    labels: str = "y",
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    limit: int | None = None,
) -> ArrayImages:
    """Open a file of images and labels as a dataset.

    Args:
        path: The ``.npz`` file.
        images: Key of the images, ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
        labels: Key of the labels, ``[N]`` integers.
        class_names: Name of each class; ``"0"``, ``"1"``, ... when ``None``.
        name: First part of the example ids; the file's name when ``None``.
        limit: Keep the first so many examples; all when ``None``.

    Raises:
        NotFoundError: If the file is missing.
        InvalidInputError: If a key is missing or an array does not fit.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"Data file not found; looked at {file}.", field="path", reason="DATA_MISSING")
    x, y = read_arrays(file, images, labels)
    names = class_names or [str(label) for label in range(int(y.max(initial=-1)) + 1)]
    return ArrayImages(x, y, names, name=name or file.stem, file=path).take(slice(limit))


def read_arrays(path: Path, images: str, labels: str) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Read two arrays of an existing ``.npz`` file, without unpickling anything.

    Raises:
        InvalidInputError: If the file is damaged or lacks a key.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[images], arrays[labels]
    except KeyError as error:
        raise InvalidInputError(f"{path} lacks a key: {error.args[0]}.", field=str(path)) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{path} is not a readable .npz file: {error}.", field=str(path)) from error
