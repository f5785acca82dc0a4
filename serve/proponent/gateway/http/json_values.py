"""Values of JSON that become inputs of a model, and what is said of those that cannot."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

from proponent.errors import InvalidInputError


def bad_field(message: str, path: str, reason: str = "") -> InvalidInputError:
    """The error of a part of a request; an empty path means all of it."""
    return InvalidInputError(f"field {path!r}: {message}" if path else message, field=path, reason=reason)


def image_bytes(text: Any, path: str, expected: str = "base64 text") -> bytes:
    """An encoded image from base64, or from a data URL that holds it; raises InvalidInputError."""
    if not isinstance(text, str):
        raise bad_field(f"expected {expected}", path)
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_field(f"not base64: {error}", path) from None


def number_array(values: list[Any], path: str, kinds: str = "iuf") -> npt.NDArray[Any]:
    """Nested lists of numbers (or of what else the kinds of NumPy name) as an array; raises InvalidInputError."""
    try:
        array = np.asarray(values)
    except (ValueError, RecursionError) as error:
        raise bad_field(f"nested lists of different lengths: {error}", path, "TENSOR_WRONG_SHAPE") from None
    if array.dtype.kind not in kinds:
        raise bad_field("holds values that are not numbers, expected float32", path, "TENSOR_WRONG_DTYPE")
    return array
