"""The inputs of a report, one at a time: the files of a folder, or held-out samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from proponent.attribution.inputs import Example
from proponent.errors import InvalidInputError, NotFoundError, SamplesMissingError
from proponent.explainer import Explainer
from proponent.index.bundle import SAMPLES, read_manifest
from proponent.index.samples import Sample, Samples
from proponent.rebuild.thumbnails import thumbnail
from proponent.signature import InputKind
from proponent.v1 import explanation_pb2 as pb
from proponent.worker.inputs import decode_image, raw_tensor, requested_input

PREVIEW = 192
"""Pixels of an input's picture, at most."""
_SUFFIXES: Mapping[InputKind | None, tuple[str, ...]] = {InputKind.TEXT: (".txt",), InputKind.RECORD: (".json",)}
_IMAGES = (".jpeg", ".jpg", ".png")
_FORMS = {".txt": "text", ".json": "record"}


@dataclass(frozen=True)
class Input:
    """Something to explain.

    Attributes:
        value: As the model takes it.
        picture: A PNG, or empty where it is not a picture.
        label: Its true class, where it is known.
        text: Itself, where it is a text.
        record: Itself, where it is a row of a table.
    """

    name: str
    value: Example
    picture: bytes = b""
    label: int | None = None
    text: str = ""
    record: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Unreadable:
    """An input that cannot be explained, and why."""

    name: str
    why: str


def input_files(folder: Path, kind: InputKind | None = None) -> list[Path]:
    """The files of a folder that hold inputs of a kind, by their names, sorted; folders inside are not looked into.

    Images are PNG and JPEG files, texts ``*.txt``, and rows of a table ``*.json``, an object each.

    Raises:
        NotFoundError: There is no such folder.
        InvalidInputError: It holds none.
    """
    if not folder.is_dir():
        raise NotFoundError(f"folder of inputs not found: {folder.absolute()}", field="inputs")
    suffixes, entries = _SUFFIXES.get(kind, _IMAGES), sorted(folder.iterdir())
    files = [path for path in entries if path.suffix.lower() in suffixes and not path.is_dir()]
    if not files:
        named = "*.png, *.jpg or *.jpeg" if suffixes is _IMAGES else f"*{suffixes[0]}"
        raise InvalidInputError(
            f"folder {folder.absolute()} holds no file named {named} ({len(entries)} other entries)",
            field="inputs",
        )
    return files


def read_files(files: Sequence[Path], explainer: Explainer) -> Iterator[Input | Unreadable]:
    """Reads files as the service would."""
    for path in files:
        try:
            yield _input(path.name, _FORMS.get(path.suffix.lower(), "image"), path.read_bytes(), explainer)
        except (OSError, InvalidInputError) as error:
            yield Unreadable(path.name, str(error))


def _input(name: str, form: str, data: bytes, explainer: Explainer, label: int | None = None) -> Input:
    request = _requested(form, data)
    value = requested_input(request, explainer)
    if form == "image":
        image = decode_image(data, explainer.signature.mode)
        return Input(name, value, thumbnail(image, PREVIEW), label)
    record = MessageToDict(request.record) if request.HasField("record") else None
    return Input(name, value, label=label, text=request.text, record=record)


def _requested(form: str, data: bytes) -> pb.ExplainRequest:
    """What a caller would send; see `Sample.form`."""
    if form == "image":
        return pb.ExplainRequest(encoded_image=data)
    if form == "tensors":
        return pb.ExplainRequest(tensors=pb.NamedTensors.FromString(data))
    try:
        return pb.ExplainRequest(text=data.decode()) if form == "text" else pb.ExplainRequest(record=_object(data))
    except ValueError as error:
        expected = "UTF-8" if form == "text" else "a JSON object of columns and values"
        raise InvalidInputError(f"it is not {expected}: {error}", field=form) from None


def _object(data: bytes) -> dict[str, object]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"it is of type {type(found).__name__}")
    return found


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
    if sample.form != "tensor":
        return _input(sample.sample_id, sample.form, sample.input, explainer, sample.class_id)
    value = raw_tensor(sample.shape, sample.dtype, sample.input, explainer.signature)
    return Input(sample.sample_id, value, thumbnail(value, PREVIEW), sample.class_id)
