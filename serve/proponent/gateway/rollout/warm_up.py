"""An input of the kind that a model takes, for a new worker to answer before any caller's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proponent.input_checks import DTYPES
from proponent.signature import Column, ColumnType, InputKind, InputSignature, TensorSignature
from proponent.v1 import explanation_pb2 as pb

_ANY_SIZE = 8
"""Of a dimension that may have any."""


def warm_up_input(signature: InputSignature) -> dict[str, Any]:
    """The input of a request: zeros, a text, or a record of the first categories; a model may refuse it."""
    if signature.kind is InputKind.TEXT:
        return {"text": "a warm up"}
    if signature.kind is InputKind.RECORD:
        return {"record": {column.name: _value(column) for column in signature.columns}}
    tensors = signature.tensors or (TensorSignature("", "float32", signature.shape),)
    if not signature.is_named:
        return {"tensor": _zeros(tensors[0])}
    return {"tensors": pb.NamedTensors(tensors={tensor.name: _zeros(tensor) for tensor in tensors})}


def _value(column: Column) -> Any:
    if column.type is ColumnType.FLAG:
        return False
    if column.type in (ColumnType.CATEGORY, ColumnType.TEXT):
        return column.categories[0] if column.categories else ""
    return 0.0


def _zeros(tensor: TensorSignature) -> pb.Tensor:
    shape = [_ANY_SIZE if size == -1 else size for size in tensor.shape]
    size = np.dtype(DTYPES[tensor.dtype]).itemsize * math.prod(shape)
    return pb.Tensor(shape=shape, dtype=tensor.dtype, data=bytes(size))
