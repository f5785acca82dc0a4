"""The inputs of a report, one at a time: the image files of a folder, or held-out samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from proponent.errors import InvalidInputError, NotFoundError, SamplesMissingError
from proponent.explainer import Explainer
from proponent.index.bundle import SAMPLES, read_manifest
from proponent.index.samples import Sample, Samples
from proponent.rebuild.thumbnails import thumbnail
from proponent.worker.inputs import decode_image, image_tensor, raw_tensor

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
            yield _image(path.name, path.read_bytes(), explainer)
        except (OSError, InvalidInputError) as error:
            yield Unreadable(path.name, str(error))


def _image(name: str, data: bytes, explainer: Explainer, label: int | None = None) -> Input:
    value = image_tensor(data, explainer.signature, explainer.classifier.transform)
    return Input(name, value, thumbnail(decode_image(data, explainer.signature.mode), PREVIEW), label)


def require_samples(bundle: Path) -> int:
    """How many held-out samples a bundle keeps.

    Raises:
        SamplesMissingError: None.
    """
    kept = read_manifest(bundle).samples
    if not kept:
        raise SamplesMissingError(
            f"bundle {bundle.name[:12]} keeps no samples: rebuild a spec that has 'held_out' with "
            "proponent rebuild SPEC --samples 200, or name a folder with --inputs",
            field="samples",
        )
    return kept


def read_samples(bundle: Path, count: int, explainer: Explainer) -> Iterator[Input | Unreadable]:
    """Reads the first held-out samples that a bundle keeps, with their labels."""
    with closing(Samples.open(bundle / SAMPLES)) as samples:
        for sample in islice(samples, count):
            try:
                yield _sample(sample, explainer)
            except InvalidInputError as error:
                yield Unreadable(sample.sample_id, str(error))


def _sample(sample: Sample, explainer: Explainer) -> Input:
    if not sample.shape:
        return _image(sample.sample_id, sample.input, explainer, sample.class_id)
    value = raw_tensor(sample.shape, "float32", sample.input, explainer.signature)
    return Input(sample.sample_id, value, thumbnail(value, PREVIEW), sample.class_id)
