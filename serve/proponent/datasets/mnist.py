"""MNIST from its own files, in the layout of ``torchvision.datasets.MNIST``: ``root/MNIST/raw/*-ubyte``."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proponent.datasets.arrays import ArrayImages
from proponent.datasets.location import data_file
from proponent.errors import InvalidInputError

_UNSIGNED_BYTE = 0x08


def train(root: str | None = None, limit: int | None = None) -> ArrayImages:
    """The 60,000 training digits (28 x 28, mode L), or the first ``limit``; ids ``mnist-train-0012``.

    Raises:
        NotFoundError: If a file is missing; ``root=None`` means ``PROPONENT_DATA``.
    """
    return _load(root, "train", "train", limit)


def test(root: str | None = None, limit: int | None = None) -> ArrayImages:
    """The 10,000 test digits, or the first ``limit``; ids ``mnist-test-0012``.

    Raises:
        NotFoundError: If a file is missing; ``root=None`` means ``PROPONENT_DATA``.
    """
    return _load(root, "t10k", "test", limit)


def _load(root: str | None, prefix: str, split: str, limit: int | None) -> ArrayImages:
    path = _find(root, f"{prefix}-images-idx3-ubyte")
    images = read_idx(path, dimensions=3)
    labels = read_idx(_find(root, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
    names = [str(digit) for digit in range(10)]
    whole = ArrayImages(images, labels, names, name=f"mnist-{split}", file=str(path))
    return whole.take(slice(limit))


def _find(root: str | None, name: str) -> Path:
    return data_file(root, f"MNIST/raw/{name}", f"MNIST/raw/{name}.gz")


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzip-compressed if its name ends in ``.gz``.

    Raises:
        InvalidInputError: If the header or the length does not fit.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        raise InvalidInputError(
            f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions.", field=str(path)
        )
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).astype(np.int64)
    if len(content) != header + int(shape.prod()):
        raise InvalidInputError(
            f"{path} holds {len(content) - header} values, expected {shape.prod()}.", field=str(path)
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
