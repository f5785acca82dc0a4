"""Which inputs of the protocol a model takes: one of several sets, each of one input or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proponent.errors import InvalidInputError
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
        is_column: Whether it is a column of a record.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    optional: bool = False
    tensor: TensorSignature | None = None
    is_column: bool = False

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
    return Expected(column.name, kinds.get(column.type, BYTES), optional=column.optional, is_column=True)


def set_named(sets: Sequence[Sequence[Expected]], given: Sequence[tuple[str, str]]) -> dict[str, Expected]:
    """The set that a request means, by name: the one of most of its names and, where sets share names, datatypes.

    Args:
        sets: Those that the model takes.
        given: Names and datatypes of the request's inputs.
    """

    def likeness(one: Sequence[Expected]) -> tuple[int, int]:
        return len({e.name for e in one} & dict(given).keys()), len({(e.name, e.datatype) for e in one} & set(given))

    return {each.name: each for each in max(sets, key=likeness)}


def add_row(request: Any, chosen: Sequence[Expected], row: Sequence[bytes], shapes: Sequence[Sequence[int]]) -> None:
    """Adds one row's input to a request of the service; raises InvalidInputError where a text is not UTF-8."""
    first = chosen[0]
    if first.is_column:
        request.record.update({each.name: _scalar(each, data) for each, data in zip(chosen, row, strict=True)})
    elif first.tensor is None:
        _add_bytes(request, first.name, row[0])
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
        request.text = _text(data, TEXT)


def _scalar(expected: Expected, data: bytes) -> str | float | bool:
    if expected.datatype == BYTES:
        return _text(data, f"record.{expected.name}")
    value = np.frombuffer(data, DTYPES[expected.datatype])[0]
    return bool(value) if expected.datatype == "BOOL" else float(value)


def _text(data: bytes, field: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"text is not UTF-8: {error}", field=field, reason="TEXT_UNUSABLE") from None
