"""Does an input fit the model's signature? What can be told without the model: by gateways, workers and the library.

Every error names the field at fault: ``text``, ``record.age``, ``tensors.input_ids``, ``tensor.dtype``.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proponent.errors import InvalidInputError
from proponent.signature import Column, ColumnType, InputKind, InputSignature, TensorSignature

DTYPES: Mapping[str, str] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "bool": "|b1",
}
"""Element types by the names of requests, as NumPy has them."""
WHOLE = 1 << 53
"""Whole numbers up to it are floats of 64 bits."""
NAMED = 10
"""Most categories in a message."""
_TAKEN = {
    InputKind.TEXT: ("text",),
    InputKind.RECORD: ("record",),
    InputKind.TENSORS: (),
    InputKind.TENSOR: ("encoded_image",),  # as the transform makes the tensor of it
    InputKind.IMAGE: ("encoded_image",),
    None: ("encoded_image",),
}
_WORDS = {"text": "a text", "record": "a record", "encoded_image": "an image"}


def taken(signature: InputSignature) -> tuple[str, ...]:
    """The fields of a request's ``input`` that a model takes."""
    return (*_TAKEN[signature.kind], "tensors" if signature.is_named else "tensor")


def check_kind(field: str, signature: InputSignature, path: str = "") -> None:
    """Refuses another kind of input than the model takes; ``field`` is that of a request's ``input``."""
    expected = taken(signature)
    if field in expected:
        return
    if not field:
        raise InvalidInputError(f"input is missing, expected {' or '.join(expected)}", field=f"{path}input")
    raise InvalidInputError(
        f"input is {_WORDS.get(field, field)}, but this model takes {' or '.join(expected)}",
        field=f"{path}{field}",
        reason="INPUT_WRONG_KIND",
    )


def check_weighable(field: str, path: str = "") -> None:
    """Refuses an input that has no words to be weighed; ``field`` is that of a request's ``input``."""
    if field != "text":
        raise InvalidInputError(
            f"{_WORDS.get(field, field)} has no words to be weighed, expected a text",
            field=f"{path}{field}",
            reason="INPUT_WRONG_KIND",
        )


def check_text(text: str, signature: InputSignature, path: str = "") -> None:
    """Refuses a text that is empty or too long."""
    if not text.strip():
        raise InvalidInputError("text is empty", field=f"{path}text", reason="TEXT_EMPTY")
    if 0 < signature.max_text_length < len(text):
        raise InvalidInputError(
            f"text has {len(text)} characters, expected at most {signature.max_text_length}",
            field=f"{path}text",
            reason="TEXT_TOO_LONG",
        )


def check_record(record: Mapping[str, object], signature: InputSignature, path: str = "") -> None:
    """Refuses a record that has other columns than the model's, or values of another type; where they are known."""
    path = f"{path}record"
    if not record:
        raise InvalidInputError("record is empty", field=path, reason="RECORD_MISSING_COLUMN")
    columns = {column.name: column for column in signature.columns}
    for name, value in record.items():
        if columns and name not in columns:
            raise InvalidInputError(
                f"record has a column {name!r}, expected {', '.join(map(repr, columns))}",
                field=f"{path}.{name}",
                reason="RECORD_UNKNOWN_COLUMN",
            )
        _check_value(columns.get(name, Column(name, optional=True)), value, f"{path}.{name}")
    for column in columns.values():
        if not column.optional and column.name not in record:
            raise InvalidInputError(
                f"record lacks the column {column.name!r}",
                field=f"{path}.{column.name}",
                reason="RECORD_MISSING_COLUMN",
            )


def _check_value(column: Column, value: object, field: str) -> None:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    if isinstance(value, list | dict):
        shown = "that is a list or an object"
    if value is None:
        if not column.optional:
            raise InvalidInputError(
                f"column {column.name!r} is null, expected a value", field=field, reason="RECORD_MISSING_COLUMN"
            )
    elif not _is_of(column.type, value):
        raise InvalidInputError(
            f"column {column.name!r} has value {shown}, expected {_EXPECTED[column.type]}",
            field=field,
            reason="RECORD_WRONG_TYPE",
        )
    elif _is_infinite(value):
        raise InvalidInputError(
            f"column {column.name!r} has value {shown}, expected a finite number",
            field=field,
            reason="RECORD_NOT_FINITE",
        )
    elif column.categories and value not in column.categories:
        raise InvalidInputError(
            f"column {column.name!r} has value {shown}, expected one of {_listed(column.categories)}",
            field=field,
            reason="RECORD_UNKNOWN_CATEGORY",
        )


def _is_infinite(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and abs(value) > sys.float_info.max


def check_exact(name: str, value: object, field: str) -> None:
    """Refuses a whole number of a record that a message cannot carry as it is: records hold numbers of 64 bits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > WHOLE and int(float(value)) != value:
        raise InvalidInputError(
            f"column {name!r} has value {value}, which becomes {int(float(value))} on its way, as numbers of records "
            "are floats of 64 bits: expected at most 2**53, or a text",
            field=field,
            reason="RECORD_NOT_EXACT",
        )


_EXPECTED = {
    ColumnType.ANY: "a number, a text, true, false or null",
    ColumnType.NUMBER: "a number",
    ColumnType.CATEGORY: "a text",
    ColumnType.TEXT: "a text",
    ColumnType.FLAG: "true or false",
}


def _is_of(kind: ColumnType, value: object) -> bool:
    if kind is ColumnType.ANY:
        return isinstance(value, str | bool | int | float)
    if kind is ColumnType.NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, bool if kind is ColumnType.FLAG else str)


def _listed(categories: Sequence[str]) -> str:
    shown = ", ".join(map(repr, categories[:NAMED]))
    return shown + (f" and {len(categories) - NAMED} others" if len(categories) > NAMED else "")


def check_names(names: Sequence[str], signature: InputSignature, path: str = "") -> dict[str, TensorSignature]:
    """The signatures of named tensors; refuses other names than the model's."""
    known = {tensor.name: tensor for tensor in signature.tensors}
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"the model takes no tensor {name!r}, expected {', '.join(map(repr, known))}",
                field=f"{path}tensors.{name}",
                reason="TENSOR_UNKNOWN",
            )
    for name in known:
        if name not in names:
            raise InvalidInputError(
                f"the tensor {name!r} is missing", field=f"{path}tensors.{name}", reason="TENSOR_MISSING"
            )
    return known


def tensor_values(
    shape: Sequence[int], dtype: str, data: bytes, expected: TensorSignature, path: str = "tensor"
) -> NDArray[np.generic]:
    """A tensor as it was sent; read-only.

    Args:
        shape: Sizes.
        dtype: Name of the element type.
        data: Little-endian values in row-major order.
        expected: What the model takes.
        path: Of the tensor in its request.

    Raises:
        InvalidInputError: Wrong dtype, shape or length, a value that is not finite, or out of its range.
    """
    if dtype != expected.dtype:
        raise _bad(expected, path, "dtype", f"has dtype {dtype!r}, expected {expected.dtype!r}", "TENSOR_WRONG_DTYPE")
    _check_shape(shape, expected, path)
    kind = np.dtype(DTYPES[dtype])
    size = kind.itemsize * math.prod(shape)
    if len(data) != size:
        raise _bad(expected, path, "data", f"has {len(data)} bytes, expected {size}", "TENSOR_WRONG_SHAPE")
    values = np.frombuffer(data, dtype=kind).reshape(shape)
    check_values(values, expected, path)
    return values


def _check_shape(shape: Sequence[int], expected: TensorSignature, path: str) -> None:
    if message := wrong_shape(shape, expected):
        raise _bad(expected, path, "shape", message, "TENSOR_WRONG_SHAPE")


def wrong_shape(shape: Sequence[int], expected: TensorSignature) -> str:
    """What is wrong with a tensor's shape; empty where nothing is."""
    if _fits(shape, expected.shape):
        return ""
    hint = ": one input, without a batch dimension" if _fits(shape[1:], expected.shape) else ""
    return f"has shape {list(shape)}, expected {list(expected.shape)}{hint}"


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True)
    )


def check_sizes(shapes: Mapping[str, Sequence[int]], signature: InputSignature, path: str = "") -> None:
    """Refuses tensors of sizes that should be one: a mask of another length than its ids.

    What most have is expected, of two what the first has.

    Args:
        shapes: Of each tensor by its name, of as many axes as the model takes.
        signature: What the model takes.
        path: Of the input in its request.
    """
    found: dict[int, list[tuple[str, int]]] = {}
    for tensor in signature.tensors:
        for axis, size in zip(tensor.axes, shapes[tensor.name], strict=False):
            found.setdefault(axis, []).append((tensor.name, size))
    for tied in found.values():
        [(expected, _)] = Counter(size for _, size in tied).most_common(1)
        holder = next(other for other, size in tied if size == expected)
        for name, size in tied:
            if size != expected:
                raise InvalidInputError(
                    f"tensor {name!r} has shape {list(shapes[name])}, expected the size {expected} of tensor "
                    f"{holder!r} in place of {size}",
                    field=f"{path}tensors.{name}",
                    reason="TENSOR_WRONG_SHAPE",
                )


def check_values(values: NDArray[np.generic], expected: TensorSignature, path: str) -> None:
    """Refuses numbers that are not finite, and whole ones out of their range."""
    if values.dtype.kind == "f":
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if bad:
            raise _bad(expected, path, "data", f"has {bad} values that are NaN or infinite", "TENSOR_NOT_FINITE")
    if values.dtype.kind == "b" and values.size and int(values.view(np.uint8).max()) > 1:
        raise _bad(expected, path, "data", "has bytes that are neither 0 nor 1", "TENSOR_OUT_OF_RANGE")
    _check_range(values, expected, path)


def _check_range(values: NDArray[np.generic], expected: TensorSignature, path: str) -> None:
    if not values.size or (expected.min_value is None and expected.max_value is None):
        return
    low, high = expected.min_value, expected.max_value
    for found in (int(values.min()), int(values.max())):
        if (low is not None and found < low) or (high is not None and found > high):
            raise out_of_range(found, (low, high), expected, path)


def out_of_range(
    value: int, bounds: tuple[int | None, int | None], expected: TensorSignature, path: str
) -> InvalidInputError:
    """The error of a whole number that is too small or too large."""
    message = f"has the value {value}, expected {bounds[0]} to {bounds[1]}"
    return _bad(expected, path, "data", message, "TENSOR_OUT_OF_RANGE")


def range_of(kind: np.dtype[Any]) -> tuple[int, int]:
    """Smallest and largest value of a dtype of whole numbers or truth values."""
    return (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))


def _bad(expected: TensorSignature, path: str, part: str, message: str, reason: str) -> InvalidInputError:
    if expected.name:
        return InvalidInputError(f"tensor {expected.name!r} {message}", field=path, reason=reason)
    return InvalidInputError(f"tensor {message}", field=f"{path}.{part}", reason=reason)


def only_tensor(signature: InputSignature) -> TensorSignature:
    """What the model takes, where it is one tensor without a name."""
    if signature.tensors and not signature.is_named:
        return signature.tensors[0]
    return TensorSignature("", "float32", signature.shape)
