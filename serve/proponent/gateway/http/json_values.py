"""Values of JSON that become inputs of a model, and what is said of those that cannot."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from proponent.errors import InvalidInputError
from proponent.input_checks import check_exact


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


def number_array(values: Any, path: str, kinds: str = "iuf") -> npt.NDArray[Any]:
    """A number or nested lists of them (or of what else the kinds of NumPy name); raises InvalidInputError."""
    try:
        array = np.asarray(values)
    except (ValueError, RecursionError) as error:
        raise bad_field(f"nested lists of different lengths: {error}", path, "TENSOR_WRONG_SHAPE") from None
    if array.dtype.kind not in kinds:
        raise bad_field("holds values that are not numbers of 64 bits, expected numbers", path, "TENSOR_WRONG_DTYPE")
    if array.dtype.kind != "b" and _holds_truth(values, array.ndim):
        raise bad_field("holds true or false among numbers, expected either", path, "TENSOR_WRONG_DTYPE")
    return array


def _holds_truth(values: Any, depth: int) -> bool:
    """Whether nested lists of some depth hold a truth value, which NumPy takes for a number."""
    if depth < 2:
        return depth == 1 and bool in map(type, values)
    return any(_holds_truth(each, depth - 1) for each in values)


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "null")


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
)


_SURROGATE = re.compile("[\ud800-\udfff]")


def check_words(values: Mapping[str, Any], path: str) -> None:
    """Refuses a text, or a value of a record, that is no text or scalar; ``values`` is an instance."""
    given = [key for key in ("text", "record", "tensors", "tensor") if values.get(key) is not None]
    if len(given) > 1:
        raise bad_field(f"several inputs ({' and '.join(given)}), expected one of them", f"{path}input")
    if "text" in given:
        _check_scalar(values["text"], f"{path}text", "TEXT_UNUSABLE", (str,), "a text")
    if "record" in given:
        record = values["record"]
        if not isinstance(record, dict):
            message = f"is {kind_of(record)}, expected an object of columns and values"
            raise bad_field(message, f"{path}record", "RECORD_WRONG_TYPE")
        for name, value in record.items():
            _check_text(name, f"{path}record", "RECORD_UNKNOWN_COLUMN")
            if value is not None:
                scalars = "a number, a text, true, false or null"
                _check_scalar(value, f"{path}record.{name}", "RECORD_WRONG_TYPE", (str, bool, int, float), scalars)
                check_exact(name, value, f"{path}record.{name}")


def _check_scalar(value: Any, path: str, reason: str, kinds: tuple[type, ...], expected: str) -> None:
    if not isinstance(value, kinds):
        raise bad_field(f"is {kind_of(value)}, expected {expected}", path, reason)
    if isinstance(value, str):
        _check_text(value, path, reason)
    elif isinstance(value, int) and abs(value) > sys.float_info.max:
        raise bad_field(f"is a number of {len(str(value))} digits, expected a finite one", path, "RECORD_NOT_FINITE")


def _check_text(text: str, path: str, reason: str) -> None:
    if _SURROGATE.search(text):
        raise bad_field("holds half of a surrogate pair, expected Unicode text", path, reason)
