"""The protocol's requests and replies as HTTP carries them: JSON, after which tensors may follow as they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from proponent.errors import InvalidInputError
from proponent.gateway.http.instances import json_object
from proponent.gateway.http.json_values import bad_field, image_bytes, number_array
from proponent.gateway.open_inference.calls import Inferred
from proponent.gateway.open_inference.inputs import IMAGE
from proponent.gateway.open_inference.queries import BINARY_OUTPUT
from proponent.gateway.open_inference.tensors import BYTES, DTYPES, OutputTensor, as_datatype, joined_elements
from proponent.v1 import open_inference_pb2 as oip

HEADER_LENGTH = "inference-header-content-length"
BINARY, BINARY_SIZE = "binary_data", "binary_data_size"
CONTENT_TYPES = ("application/json", "application/octet-stream", "")
"""Clients that send binary data often leave the type out."""
_INT64, _UINT64 = range(-(1 << 63), 1 << 63), range(1 << 64)


def header_length(headers: Mapping[str, str]) -> int | None:
    """Bytes of JSON at the start of a body; None where all of it is JSON."""
    text = headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        message = f"{HEADER_LENGTH} is {text!r:.80}, expected a number of bytes"
        raise InvalidInputError(message, field=HEADER_LENGTH)
    return int(text)


def infer_request_of(body: bytes, head_bytes: int | None, model: str, version: str) -> oip.ModelInferRequest:
    """The request of a body.

    Args:
        body: JSON, and after ``head_bytes`` bytes the data of the inputs that say so, in their order.
        head_bytes: None where all of it is JSON.
        model: From the path.
        version: From the path.

    Raises:
        InvalidInputError: Names the part at fault.
    """
    if head_bytes is not None and head_bytes > len(body):
        message = f"{HEADER_LENGTH} is {head_bytes}, but the body has {len(body)} bytes"
        raise InvalidInputError(message, field=HEADER_LENGTH)
    values = json_object(body[:head_bytes])
    data = b"" if head_bytes is None else body[head_bytes:]
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=_text(values, "id", "id"))
    _parameters(values, request.parameters, "parameters")
    for position, output in enumerate(_objects(values, "outputs")):
        path = f"outputs[{position}]"
        written = request.outputs.add(name=_text(output, "name", f"{path}.name"))
        _parameters(output, written.parameters, f"{path}.parameters")
    _add_inputs(request, values, data)
    return request


def infer_response(inferred: Inferred, request: oip.ModelInferRequest) -> Response:
    """The reply, with the outputs in binary that were asked for so."""
    default = request.parameters[BINARY_OUTPUT].bool_param if BINARY_OUTPUT in request.parameters else False
    binary = {o.name: o.parameters[BINARY].bool_param for o in request.outputs if BINARY in o.parameters}
    described, parts = [], []
    for output in inferred.outputs:
        written: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.values.shape),
        }
        if binary.get(output.name, default):
            parts.append(output.raw())
            written["parameters"] = {BINARY_SIZE: len(parts[-1])}
        else:
            written["data"] = _plain(output)
        described.append(written)
    head = {"model_name": inferred.model, "model_version": inferred.version, "id": inferred.id, "outputs": described}
    text = orjson.dumps(head if inferred.id else {key: value for key, value in head.items() if key != "id"})
    if not parts:
        return Response(text, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(text))}
    return Response(b"".join((text, *parts)), media_type="application/octet-stream", headers=headers)


def _add_inputs(request: oip.ModelInferRequest, values: Mapping[str, Any], data: bytes) -> None:
    """Adds the inputs, all with raw contents."""
    place = 0
    for position, given in enumerate(_objects(values, "inputs")):
        path = f"inputs[{position}]"
        tensor = request.inputs.add(
            name=_text(given, "name", f"{path}.name"),
            datatype=_text(given, "datatype", f"{path}.datatype"),
            shape=_shape(given.get("shape"), f"{path}.shape"),
        )
        _parameters(given, tensor.parameters, f"{path}.parameters")
        size = _binary_size(tensor, f"{path}.parameters.{BINARY_SIZE}")
        if size is None:
            request.raw_input_contents.append(_raw(given.get("data"), tensor, f"{path}.data"))
        elif "data" in given:
            raise bad_field(f"stands beside {BINARY_SIZE}, expected one of them", f"{path}.data")
        else:
            request.raw_input_contents.append(data[place : place + size])
            place += size
    if place != len(data):
        message = f"{len(data)} bytes follow the JSON, but the inputs' {BINARY_SIZE} sum to {place}"
        raise InvalidInputError(message, field="body", reason="TENSOR_WRONG_SHAPE")


def _binary_size(tensor: oip.ModelInferRequest.InferInputTensor, path: str) -> int | None:
    if BINARY_SIZE not in tensor.parameters:
        return None
    parameter = tensor.parameters[BINARY_SIZE]
    if parameter.WhichOneof("parameter_choice") != "int64_param" or parameter.int64_param < 0:
        raise bad_field("is not a number of bytes >= 0", path)
    return int(parameter.int64_param)


def _raw(data: Any, tensor: oip.ModelInferRequest.InferInputTensor, path: str) -> bytes:
    """The data of an input as raw contents; those of a datatype that no input has are left to be refused."""
    if not isinstance(data, list):
        raise bad_field("is missing or not a list", path)
    if tensor.datatype == BYTES:
        return joined_elements(_elements(data, path, image_bytes if tensor.name == IMAGE else _utf8))
    return _numbers(data, tensor.datatype, path) if tensor.datatype in DTYPES and tensor.name != IMAGE else b""


def _numbers(data: list[Any], datatype: str, path: str) -> bytes:
    """Numbers of a datatype; raises InvalidInputError where it does not hold them."""
    given = number_array(data, path, "iufb" if datatype == "BOOL" else "iuf")
    return as_datatype(given, datatype, path).tobytes()


def _elements(data: list[Any], path: str, read: Callable[[Any, str], bytes]) -> Iterator[bytes]:
    if data and all(isinstance(each, list) for each in data):
        data = list(itertools.chain.from_iterable(data))
    for position, text in enumerate(data):
        yield read(text, f"{path}[{position}]")


def _utf8(text: Any, path: str) -> bytes:
    if not isinstance(text, str):
        raise bad_field("expected text", path)
    _check_text(text, path)
    return text.encode()


def _plain(output: OutputTensor) -> list[Any]:
    if output.datatype == BYTES:
        return [each.decode() for each in output.values.ravel()]
    flat = np.ascontiguousarray(output.values.ravel())
    return orjson.loads(orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY))  # type: ignore[no-any-return]


def _objects(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = values.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise bad_field("is not a list of objects", key)
    return found


def _text(values: Mapping[str, Any], key: str, path: str) -> str:
    found = values.get(key, "")
    if not isinstance(found, str):
        raise bad_field(f"is {found!r:.80}, expected text", path)
    if not found.isascii():
        _check_text(found, path)
    return found


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise bad_field("holds half of a surrogate pair, expected Unicode text", path) from None


def _shape(given: Any, path: str) -> list[int]:
    if isinstance(given, list) and all(type(size) is int and size in _INT64 for size in given):
        return given
    raise bad_field(f"is {given!r:.80}, expected a list of integers", path, "TENSOR_WRONG_SHAPE")


def _parameters(values: Mapping[str, Any], into: Any, path: str) -> None:
    given = values.get("parameters")
    if given is None:
        return
    if not isinstance(given, dict):
        raise bad_field("is not an object", path)
    for name, value in given.items():
        _check_text(name, path)
        into[name].CopyFrom(_parameter(value, f"{path}.{name}"))


def _parameter(value: Any, path: str) -> oip.InferParameter:
    if isinstance(value, bool):
        return oip.InferParameter(bool_param=value)
    if isinstance(value, int) and value in _INT64:
        return oip.InferParameter(int64_param=value)
    if isinstance(value, int) and value in _UINT64:
        return oip.InferParameter(uint64_param=value)
    if isinstance(value, float):
        return oip.InferParameter(double_param=value)
    if isinstance(value, str):
        _check_text(value, path)
        return oip.InferParameter(string_param=value)
    raise bad_field(f"is {value!r:.80}, expected text, a number, true or false", path)
