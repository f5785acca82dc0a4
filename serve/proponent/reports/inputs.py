"""The inputs of a report, one at a time: the image files of a folder, or held-out samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from proponent.errors import InvalidInputError, NotFoundError
from proponent.explainer import Explainer
from proponent.rebuild.thumbnails import thumbnail
from proponent.worker.inputs import decode_image, image_tensor

PREVIEW = 192
"""Pixels of an input's picture, at most."""
_SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class Input:
    """Something to explain.

    Attributes:
        value: As the model takes it, float32.
        picture: A PNG, or empty where it is no picture.
        label: Its true class, where it is known.
    """

    name: str
    value: Tensor
    picture: bytes
    label: int | None = None


@dataclass(frozen=True)
class Unreadable:
    """An input that cannot be explained, and why."""

    name: str
    why: str


def image_files(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder by their names, sorted; those of folders inside are not looked for.

    Raises:
        NotFoundError: There is no such folder.
        InvalidInputError: It holds none.
    """
    if not folder.is_dir():
        raise NotFoundError(f"folder of inputs not found: {folder.absolute()}", field="inputs")
    entries = sorted(folder.iterdir())
    files = [path for path in entries if path.suffix.lower() in _SUFFIXES and not path.is_dir()]
    if not files:
        raise InvalidInputError(
            f"folder {folder.absolute()} holds no file named *.png, *.jpg or *.jpeg ({len(entries)} other entries)",
            field="inputs",
        )
    return files


def read_images(files: Sequence[Path], explainer: Explainer) -> Iterator[Input | Unreadable]:
    """Reads image files as the service would."""
    for path in files:
        try:
            data = path.read_bytes()
            value = image_tensor(data, explainer.signature, explainer.classifier.transform)
            picture = thumbnail(decode_image(data, explainer.signature.mode), PREVIEW)
        except (OSError, InvalidInputError) as error:
            yield Unreadable(path.name, str(error))
        else:
            yield Input(path.name, value, picture)
