"""CIFAR-10 from two sources that must not be mixed: a lossless subset, and a JPEG copy of all of it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

from PIL import Image

from proponent.datasets.arrays import ArrayImages
from proponent.datasets.location import data_file
from proponent.datasets.npz import read_arrays
from proponent.errors import InvalidInputError

CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LOSSLESS_FILE = "cifar10_lossless_4k1k.npz"
JPEG_FILE = "cifar10_jpeg.tar"
JPEG_TITLE = "CIFAR-10 (JPEG copy)"
_SPLITS = ("train", "test")


def lossless(root: str | None = None, split: str = "train", limit: int | None = None) -> ArrayImages:
    """4,000 training or 1,000 test images (32 x 32, RGB) as published; ids ``cifar10-train-0012``.

    Raises:
        NotFoundError: If the file is missing; ``root=None`` means ``PROPONENT_DATA``.
        InvalidInputError: If the split is neither ``"train"`` nor ``"test"``.
    """
    _check_split(split)
    path = data_file(root, LOSSLESS_FILE)
    images, labels = read_arrays(path, f"x_{split}", f"y_{split}")
    whole = ArrayImages(images, labels, CLASS_NAMES, name=f"cifar10-{split}", file=str(path))
    return whole.take(slice(limit))


def jpeg(root: str | None = None, split: str = "train", limit: int | None = None) -> TarImages:
    """50,000 training or 10,000 test images of the JPEG copy, decoded when asked for.

    Raises:
        NotFoundError: If the file is missing; ``root=None`` means ``PROPONENT_DATA``.
        InvalidInputError: If the split is neither ``"train"`` nor ``"test"``.
    """
    _check_split(split)
    return TarImages(data_file(root, JPEG_FILE), f"cifar10jpg/{split}", CLASS_NAMES, limit)


class TarImages:
    """Images in class folders of an uncompressed tar file, read in place by their offset.

    Examples are ordered by file name, then class, so that the first n are balanced.

    Attributes:
        path: The tar file.
        class_names: Name of each class, also its folder.
    """

    def __init__(self, path: Path, folder: str, class_names: list[str], limit: int | None = None) -> None:
        """Index the members of ``folder/<class>/``.

        Args:
            path: An uncompressed tar file.
            folder: Path of the class folders in it.
            class_names: Names of the folders, in label order.
            limit: Keep the first so many examples; all when ``None``.

        Raises:
            InvalidInputError: If the file is not an uncompressed tar file or holds no such images.
        """
        self.path = path
        self.class_names = list(class_names)
        self._members = _members(path, folder, class_names)[:limit]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._members)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The decoded image and its label."""
        member = self._members[index]
        with self.path.open("rb") as file:
            file.seek(member.offset_data)
            content = file.read(member.size)
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image, self.class_names.index(PurePosixPath(member.name).parent.name)

    def example_id(self, index: int) -> str:
        """The member's path without its extension."""
        return str(PurePosixPath(self._members[index].name).with_suffix(""))

    def source(self, index: int) -> str:
        """``tar file#member``."""
        return f"{self.path}#{self._members[index].name}"


def _members(path: Path, folder: str, class_names: list[str]) -> list[tarfile.TarInfo]:
    wanted = {PurePosixPath(folder) / name for name in class_names}
    try:
        with tarfile.open(path, "r:") as archive:
            files = [m for m in archive.getmembers() if m.isfile() and PurePosixPath(m.name).parent in wanted]
    except tarfile.TarError as error:
        raise InvalidInputError(f"{path} is not an uncompressed tar file: {error}.", field=str(path)) from error
    if not files:
        raise InvalidInputError(f"{path} holds no images in {folder}/<class>/.", field=str(path))
    return sorted(files, key=lambda member: _by_number_then_class(member.name))


def _by_number_then_class(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return path.name, path.parent.name


def _check_split(split: str) -> None:
    if split not in _SPLITS:
        raise InvalidInputError(f"Unknown split {split!r}, expected one of {_SPLITS}.", field="split")
