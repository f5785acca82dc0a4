"""What a caller may give as an input, as the fields of a request."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct
from numpy.typing import NDArray
from PIL import Image

from proponent.errors import InvalidInputError, NotFoundError
from proponent.input_checks import check_exact
from proponent.tensor_messages import named_message, tensor_message
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb

Input = bytes | bytearray | str | Path | Image.Image | NDArray[Any] | Text | Mapping[str, Any]
"""An image (the bytes of a file, a path, a Pillow image, or an array [H, W] or [H, W, 3] of uint8); a tensor that
skips decoding and transform, as an array of another dtype; a `Text`, as a plain text is a path; a record, a mapping
of columns to scalars; or tensors by name, a mapping of arrays."""


def input_fields(value: Input) -> dict[str, Any]:
    """The ``input`` of a request.

    Raises:
        NotFoundError: No such file.
        InvalidInputError: Something else, or an array of another dtype or shape.
    """
    if isinstance(value, bytes | bytearray):
        return {"encoded_image": bytes(value)}
    if isinstance(value, str | Path):
        return {"encoded_image": _file(Path(value))}
    if isinstance(value, Image.Image):
        return {"encoded_image": _png(value)}
    if isinstance(value, Text):
        return {"text": value.text}
    if isinstance(value, Mapping):
        return _named(value)
    if not isinstance(value, np.ndarray):
        raise InvalidInputError(
            f"input is of type {type(value).__name__}, expected bytes, a path, a Pillow image, a NumPy array, a Text "
            "or a mapping",
            field="input",
        )
    if value.dtype == np.uint8:
        return {"encoded_image": _png(_image(value))}
    return {"tensor": _tensor(value)}


def _named(value: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by name, where all values are arrays, or a record."""
    if value and all(isinstance(each, np.ndarray) for each in value.values()):
        return {"tensors": named_message(value)}
    record, values = Struct(), {str(k): v.item() if isinstance(v, np.generic) else v for k, v in value.items()}
    try:
        for name, each in values.items():
            check_exact(name, each, f"record.{name}")
        record.update(values)
    except (ValueError, TypeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidInputError(f"record cannot be sent: {error}", field="record") from None
    return {"record": record}


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"image not found: {path.absolute()}: {error.strerror}", field="input") from None


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG")
    except (OSError, ValueError) as error:
        size = "x".join(map(str, image.size))
        raise InvalidInputError(f"image of {size} pixels, mode {image.mode!r}: {error}", field="input") from None
    return buffer.getvalue()


def _image(array: NDArray[np.uint8]) -> Image.Image:
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise InvalidInputError(
            f"array of uint8, which is an image, has shape {list(array.shape)}, expected [H, W] or [H, W, 3]; a "
            "tensor has another dtype",
            field="input",
        )
    return Image.fromarray(array)


def _tensor(array: NDArray[Any]) -> pb.Tensor:
    if array.dtype.kind != "f":
        return tensor_message(array)
    with np.errstate(over="ignore"):  # the service refuses what became infinite
        values = np.ascontiguousarray(array, dtype="<f4")
    return pb.Tensor(shape=values.shape, dtype="float32", data=values.tobytes())
