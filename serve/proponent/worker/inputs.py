"""From what a caller sends to what the model reads: decoded, transformed, and checked."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from proponent.attribution.inputs import Example
from proponent.datasets.transforms import upright
from proponent.errors import InvalidInputError
from proponent.explainer import Predictor
from proponent.explainer.given import named_input, record_input, text_input
from proponent.input_checks import check_kind, check_names, only_tensor, tensor_values
from proponent.signature import InputSignature
from proponent.tensor_messages import record_of
from proponent.v1 import explanation_pb2 as pb

MAX_PIXELS = 16_777_216
_CHANNELS = {"1": 1, "L": 1, "P": 1, "I": 1, "F": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}


def decode_image(data: bytes, mode: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a PNG or JPEG file of the mode expected, turned as its EXIF orientation says.

    Raises:
        InvalidInputError: Not such a file, truncated, too many pixels, or another mode.
    """
    try:
        with warnings.catch_warnings():
            # Of images that are large, before it refuses larger ones (the limit here is below both), and of damage.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise InvalidInputError(
            f"image too large: {error}", field="encoded_image", reason="IMAGE_TOO_LARGE"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise _unreadable(f"{len(data)} bytes are not a PNG or JPEG image") from None
    _check_size(image.size, max_pixels)
    _check_mode(image.mode, mode)
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(f"{image.format} image is truncated or damaged: {error}") from None
    return upright(image)


def _unreadable(message: str) -> InvalidInputError:
    return InvalidInputError(message, field="encoded_image", reason="IMAGE_UNREADABLE")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise InvalidInputError(
            f"image of {size[0]}x{size[1]} pixels, expected at most {max_pixels} pixels",
            field="encoded_image",
            reason="IMAGE_TOO_LARGE",
        )


def _check_mode(actual: str, expected: str) -> None:
    if actual != expected:
        raise InvalidInputError(
            f"image has mode {actual} ({_CHANNELS.get(actual, '?')} channels), "
            f"expected mode {expected} ({_CHANNELS[expected]} channels)",
            field="encoded_image",
            reason="IMAGE_WRONG_CHANNELS",
        )


def image_tensor(data: bytes, signature: InputSignature, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """Decodes an image and transforms it to a finite float32 tensor of ``signature.shape``.

    Raises:
        InvalidInputError: The image is unusable, or the transform gives another shape or values that are not finite.
    """
    image = decode_image(data, signature.mode)
    try:
        tensor = torch.as_tensor(transform(image), dtype=torch.float32)
    except (RuntimeError, ValueError, TypeError, IndexError):
        raise InvalidInputError(
            f"image of {image.width}x{image.height} pixels could not be transformed to shape "
            f"{list(signature.shape)}{_size_hint(signature)}",
            field="encoded_image",
            reason="IMAGE_WRONG_SIZE",
        ) from None
    if tuple(tensor.shape) != signature.shape:
        raise InvalidInputError(
            f"image of {image.width}x{image.height} pixels gives a tensor of shape {list(tensor.shape)}, "
            f"expected shape {list(signature.shape)}{_size_hint(signature)}",
            field="encoded_image",
            reason="IMAGE_WRONG_SIZE",
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidInputError(
            "the transform makes NaN or infinite values of this image",
            field="encoded_image",
            reason="IMAGE_NOT_FINITE",
        )
    return tensor


def _size_hint(signature: InputSignature) -> str:
    size = signature.image_size
    return f" (an image of {size[0]}x{size[1]} pixels)" if size else ""


def raw_tensor(shape: Sequence[int], dtype: str, data: bytes, signature: InputSignature) -> Tensor:
    """Checks and reads a little-endian tensor of what the signature says.

    Raises:
        InvalidInputError: Wrong dtype, shape or length, or a value that is not finite or out of its range.
    """
    return torch.from_numpy(tensor_values(shape, dtype, data, only_tensor(signature)).copy())


def requested_input(request: pb.PredictRequest | pb.ExplainRequest, predictor: Predictor) -> Example:
    """The input of a request as the model takes it; raises InvalidInputError, which names the field."""
    kind, signature, transform = request.WhichOneof("input"), predictor.signature, predictor.classifier.transform
    check_kind(kind or "", signature)
    if kind == "text":
        return text_input(request.text, signature, transform)
    if kind == "record":
        return record_input(record_of(request.record), signature, transform)
    if kind == "tensors":
        return _named(request.tensors, signature, transform)
    if kind == "tensor":
        tensor = request.tensor
        return predictor.accept(raw_tensor(tensor.shape, tensor.dtype, tensor.data, signature))
    return image_tensor(request.encoded_image, signature, transform)


def _named(message: pb.NamedTensors, signature: InputSignature, transform: Any) -> Example:
    expected = check_names(list(message.tensors), signature)
    values = {
        name: tensor_values(sent.shape, sent.dtype, sent.data, expected[name], f"tensors.{name}")
        for name, sent in message.tensors.items()
    }
    return named_input({n: torch.from_numpy(array.copy()) for n, array in values.items()}, signature, transform)
