"""Arrays and records as the messages of requests and replies, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from numpy.typing import NDArray

from proponent.errors import InvalidInputError
from proponent.input_checks import DTYPES
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


JSON_NUMBERS = "json"
"""In place of a dtype: whole numbers or truth values of JSON, as float64; they get the dtype that the model takes."""


def of_dtype(message: pb.Tensor, dtype: str) -> pb.Tensor:
    """The same numbers in a dtype that holds them all; unchanged where it does not, for a check to refuse."""
    values = np.frombuffer(message.data, "<f8").reshape(message.shape)
    with np.errstate(all="ignore"):
        found = values.astype(DTYPES[dtype])
    if not np.array_equal(found.astype("<f8"), values) and not dtype.startswith("float"):
        return pb.Tensor(shape=message.shape, dtype="float64", data=message.data)
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
