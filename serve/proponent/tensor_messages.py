"""Arrays as the tensors of requests and replies, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
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
