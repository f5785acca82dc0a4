"""Tensors as the protocol carries them: as raw bytes, or as typed contents."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proponent.errors import InvalidInputError
from proponent.gateway.http.json_values import bad_field
from proponent.v1 import open_inference_pb2 as oip

FP32, FP64, INT32, BYTES = "FP32", "FP64", "INT32", "BYTES"
DTYPES = {
    FP32: "<f4",
    FP64: "<f8",
    "FP16": "<f2",
    "INT64": "<i8",
    INT32: "<i4",
    "INT16": "<i2",
    "INT8": "|i1",
    "UINT8": "|u1",
    "BOOL": "|b1",
}
_CONTENTS = {
    FP32: "fp32_contents",
    FP64: "fp64_contents",
    "INT64": "int64_contents",
    **dict.fromkeys((INT32, "INT16", "INT8"), "int_contents"),
    "UINT8": "uint_contents",
    "BOOL": "bool_contents",
    BYTES: "bytes_contents",
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class OutputTensor:
    """One output of a reply.

    Attributes:
        name: As asked for.
        datatype: One of ``FP32``, ``FP64``, ``INT32`` and ``BYTES``.
        values: Of that datatype; arrays of objects hold bytes.
    """

    name: str
    datatype: str
    values: npt.NDArray[Any]

    def raw(self) -> bytes:
        """The values in row-major order, little-endian; each element of BYTES after its length."""
        if self.datatype == BYTES:
            return joined_elements(self.values.ravel())
        return self.values.astype(DTYPES[self.datatype]).tobytes()

    def contents(self) -> oip.InferTensorContents:
        """The values in the field of their datatype."""
        return oip.InferTensorContents(**{_CONTENTS[self.datatype]: self.values.ravel().tolist()})


def joined_elements(elements: Iterable[bytes]) -> bytes:
    """Elements of BYTES as raw data: each after its length in 4 bytes."""
    return b"".join(part for each in elements for part in (_LENGTH.pack(len(each)), each))


def input_rows(request: oip.ModelInferRequest, position: int, path: str) -> Sequence[bytes]:
    """The batch of an input, row by row: little-endian values, or the elements of BYTES.

    Args:
        request: Whose input has the right name, datatype and shape.
        position: Of the input.
        path: Of the input, for errors.

    Raises:
        InvalidInputError: Another number of values or bytes than the shape says.
    """
    tensor, raw = request.inputs[position], request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"raw_input_contents has {len(raw)} entries, expected one for each of {len(request.inputs)} inputs"
        raise InvalidInputError(message, field="raw_input_contents")
    if raw and tensor.HasField("contents"):
        raise bad_field("contents beside raw_input_contents, expected one of them", f"{path}.contents")
    if tensor.datatype == BYTES:
        elements = split_elements(raw[position], path) if raw else _typed(tensor, path)
        _check_count(len(elements), math.prod(tensor.shape), "elements", path)
        return elements
    data = raw[position] if raw else _values(tensor, path)
    _check_count(len(data), np.dtype(DTYPES[tensor.datatype]).itemsize * math.prod(tensor.shape), "bytes", path)
    size = len(data) // tensor.shape[0]
    return [data[start : start + size] for start in range(0, len(data), size)]


def split_elements(data: bytes, path: str) -> list[bytes]:
    """The elements of BYTES in raw data; raises InvalidInputError where a length does not fit."""
    found: list[bytes] = []
    place = 0
    while place < len(data):
        head = data[place : place + _LENGTH.size]
        end = place + _LENGTH.size + (_LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else len(data))
        if end > len(data):
            message = f"element {len(found)} ends after byte {end}, but the data has {len(data)} bytes"
            raise bad_field(f"{message}, expected a length in 4 bytes before each element", path)
        found.append(data[place + _LENGTH.size : end])
        place = end
    return found


def _typed(tensor: oip.ModelInferRequest.InferInputTensor, path: str) -> list[bytes]:
    return list(_typed_contents(tensor, path).bytes_contents)


def _values(tensor: oip.ModelInferRequest.InferInputTensor, path: str) -> bytes:
    """Typed contents as little-endian values."""
    contents = _typed_contents(tensor, path)
    if tensor.datatype in (FP32, FP64):
        return _packed(contents)
    given = np.array(list(getattr(contents, _CONTENTS[tensor.datatype])))
    return as_datatype(given, tensor.datatype, f"{path}.contents").tobytes()


def as_datatype(given: npt.NDArray[Any], datatype: str, path: str) -> npt.NDArray[Any]:
    """Numbers in a datatype; raises InvalidInputError where it is one of whole numbers and does not hold them."""
    with np.errstate(all="ignore"):
        found = given.astype(DTYPES[datatype])
    lost = given[found.astype("f8") != given.astype("f8")]
    if lost.size and found.dtype.kind != "f":
        raise bad_field(f"holds {lost.flat[0]}, which is no {datatype}", path, "TENSOR_WRONG_DTYPE")
    return found


def _typed_contents(tensor: oip.ModelInferRequest.InferInputTensor, path: str) -> oip.InferTensorContents:
    """The contents, which hold nothing but values of the tensor's datatype."""
    expected = _CONTENTS.get(tensor.datatype, "")  # FP16 has no contents but raw ones
    others = [field.name for field, _ in tensor.contents.ListFields() if field.name != expected]
    if others:
        message = f"contents hold {others[0]}, expected {expected} for datatype {tensor.datatype}"
        raise bad_field(message, f"{path}.contents", "TENSOR_WRONG_DTYPE")
    return tensor.contents


def _packed(contents: oip.InferTensorContents) -> bytes:
    """Values that are alone in their message, as they stand on the wire: a tag, a length, little-endian data."""
    data = contents.SerializeToString()
    start = 1
    while start < len(data) and data[start] & 0x80:
        start += 1
    return data[start + 1 :]


def _check_count(count: int, expected: int, what: str, path: str) -> None:
    if count != expected:
        raise bad_field(f"{count} {what}, but the shape asks for {expected}", path, "TENSOR_WRONG_SHAPE")
