"""Which inputs of the protocol a model takes: one of several sets, each of one input or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proponent.gateway.open_inference.tensors import BYTES, DTYPES, FP64
from proponent.input_checks import DTYPES as NAMES
from proponent.input_checks import only_tensor
from proponent.signature import Column, ColumnType, InputKind, InputSignature, TensorSignature
from proponent.v1 import explanation_pb2 as pb

TENSOR, IMAGE, TEXT = "tensor", "image", "text"
_DATATYPES = {name: next(kind for kind, code in DTYPES.items() if code == dtype) for name, dtype in NAMES.items()}


@dataclass(frozen=True)
class Expected:
    """One input that a model takes.

    Attributes:
        shape: Of a row; -1 where any size will do.
        optional: Whether it may be left out.
        tensor: What the model takes of it; None of an image, a text or a column.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    optional: bool = False
    tensor: TensorSignature | None = None

    def told(self) -> str:
        """For people."""
        return f"{self.name!r} ({self.datatype} of shape {[-1, *self.shape]})"


def expected_inputs(signature: InputSignature) -> list[list[Expected]]:
    """The sets of inputs of which a request holds one."""
    tensors = [_tensor(each) for each in (signature.tensors if signature.is_named else [only_tensor(signature)])]
    if signature.kind is InputKind.TEXT:
        return [tensors, [Expected(TEXT, BYTES)]]
    if signature.kind is InputKind.RECORD:
        return [tensors, [_column(column) for column in signature.columns]] if signature.columns else [tensors]
    return [tensors] if signature.is_named else [tensors, [Expected(IMAGE, BYTES)]]


def _tensor(signature: TensorSignature) -> Expected:
    return Expected(signature.name or TENSOR, _DATATYPES[signature.dtype], signature.shape, tensor=signature)


def _column(column: Column) -> Expected:
    kinds = {ColumnType.NUMBER: FP64, ColumnType.FLAG: "BOOL"}
    return Expected(column.name, kinds.get(column.type, BYTES), optional=column.optional)


def add_row(request: Any, chosen: Sequence[Expected], row: Sequence[bytes], shapes: Sequence[Sequence[int]]) -> None:
    """Adds one row's input to a request of the service."""
    first = chosen[0]
    if first.tensor is None and first.name in (IMAGE, TEXT) and len(chosen) == 1:
        _add_bytes(request, first.name, row[0])
    elif first.tensor is None:
        request.record.update({each.name: _scalar(each, data) for each, data in zip(chosen, row, strict=True)})
    elif first.name == TENSOR and not first.tensor.name:
        request.tensor.CopyFrom(pb.Tensor(shape=shapes[0], dtype=first.tensor.dtype, data=row[0]))
    else:
        for each, data, shape in zip(chosen, row, shapes, strict=True):
            assert each.tensor is not None
            request.tensors.tensors[each.name].CopyFrom(pb.Tensor(shape=shape, dtype=each.tensor.dtype, data=data))


def _add_bytes(request: Any, name: str, data: bytes) -> None:
    if name == IMAGE:
        request.encoded_image = data
    else:
        request.text = data.decode("utf-8", "replace")


def _scalar(expected: Expected, data: bytes) -> str | float | bool:
    if expected.datatype == BYTES:
        return data.decode("utf-8", "replace")
    value = np.frombuffer(data, DTYPES[expected.datatype])[0]
    return bool(value) if expected.datatype == "BOOL" else float(value)
