"""Image files in one folder per class, the layout of ``torchvision.datasets.ImageFolder``."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from proponent.datasets.transforms import upright
from proponent.errors import InvalidInputError, NotFoundError

_EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """A dataset of image files, decoded when asked for.

    Classes are the folders in alphabetical order; examples are ordered by path.

    Attributes:
        root: The folder of class folders.
        class_names: Name of each class, also its folder.
    """

    def __init__(self, root: Path, limit: int | None = None) -> None:
        """List the image files below ``root/<class>/``, at any depth.

        Args:
            root: The folder of class folders.
            limit: Keep the first so many examples; all when ``None``.

        Raises:
            NotFoundError: If the folder is missing.
            InvalidInputError: If it holds no class folder with images.
        """
        if not root.is_dir():
            raise NotFoundError(f"Image folder not found; looked at {root}.", field="root", reason="DATA_MISSING")
        self.root = root
        self.class_names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        self._files = [(path, label) for label, name in enumerate(self.class_names) for path in _images(root / name)][
            :limit
        ]
        if not self._files:
            raise InvalidInputError(
                f"{root} holds no images in folders per class ({', '.join(sorted(_EXTENSIONS))}).",
                field="root",
            )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The decoded image, turned as its EXIF orientation says, and its label.

        Raises:
            InvalidInputError: If the file cannot be decoded; the message names it.
        """
        path, label = self._files[index]
        try:
            with Image.open(path) as image:
                image.load()
                return upright(image), label
        except (UnidentifiedImageError, OSError) as error:
            raise InvalidInputError(
                f"Cannot decode {path}: {error}.", field=str(path), reason="IMAGE_UNREADABLE"
            ) from error

    def example_id(self, index: int) -> str:
        """The file's path relative to the root, with forward slashes."""
        return self._files[index][0].relative_to(self.root).as_posix()

    def source(self, index: int) -> str:
        """The file's path."""
        return str(self._files[index][0])


def open_folder(root: str | os.PathLike[str], limit: int | None = None) -> ImageFolder:
    """Open a folder of class folders as a dataset; see ``ImageFolder``."""
    return ImageFolder(Path(root), limit)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _EXTENSIONS and path.is_file())
