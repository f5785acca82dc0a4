"""Arrays and records as the messages of requests and replies, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from numpy.typing import NDArray

from proponent.errors import InvalidInputError
from proponent.input_checks import DTYPES, out_of_range, range_of
from proponent.signature import TensorSignature
from proponent.v1 import explanation_pb2 as pb


def tensor_message(array: NDArray[Any]) -> pb.Tensor:
    """An array as a message.

    Raises:
        InvalidInputError: Its element type has no name in requests.
    """
    name = array.dtype.name
    if name not in DTYPES:
        raise InvalidInputError(f"array has dtype {name}, expected one of {', '.join(DTYPES)}", field="input")
    return pb.Tensor(shape=array.shape, dtype=name, data=np.ascontiguousarray(array, dtype=DTYPES[name]).tobytes())


def array_of(message: pb.Tensor) -> NDArray[Any]:
    """The array of a message whose shape and size are right."""
    return np.frombuffer(message.data, DTYPES[message.dtype]).reshape(message.shape)


def named_message(arrays: Mapping[str, NDArray[Any]]) -> pb.NamedTensors:
    """Arrays by name as a message."""
    return pb.NamedTensors(tensors={name: tensor_message(array) for name, array in arrays.items()})


JSON_NUMBERS, JSON_TRUTH = "json", "json flags"
"""In place of a dtype: whole numbers, or truth values, of JSON as float64; they get the dtype of the model."""


def of_json(message: pb.Tensor, expected: TensorSignature, path: str) -> pb.Tensor:
    """Numbers or truth values of JSON in the dtype that the model takes.

    Args:
        message: Of one of these two in place of a dtype; it stays as it is where its data is not that of JSON.
        expected: What the model takes; truth values stay such, for a check to refuse, where that is no flag.
        path: Of the tensor in its request.

    Raises:
        InvalidInputError: A number that the dtype does not hold.
    """
    if len(message.data) != 8 * math.prod(message.shape):
        return message
    values = np.frombuffer(message.data, "<f8").reshape(message.shape)
    if not np.isfinite(values).all():
        return message
    if message.dtype == JSON_TRUTH and not expected.is_flag:
        return tensor_message(values.astype(np.bool_))
    kind = np.dtype(DTYPES[expected.dtype])
    with np.errstate(all="ignore"):
        found = values.astype(kind)
    lost = values[found.astype("<f8") != values]
    if lost.size and kind.kind != "f":
        raise out_of_range(int(lost[0]), range_of(kind), expected, path)
    return tensor_message(found)


def record_of(message: Struct) -> dict[str, Any]:
    """A record as it was sent; numbers need not be finite."""
    return {name: _value_of(value) for name, value in message.fields.items()}


def _value_of(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind in (None, "null_value"):
        return None
    found = getattr(value, kind)
    return found if kind in ("number_value", "string_value", "bool_value") else [found]
