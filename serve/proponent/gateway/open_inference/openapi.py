"""The parts of the OpenAPI description that belong to the protocol."""

from __future__ import annotations

from typing import Any

from proponent.gateway.http.schemas import reply
from proponent.v1 import open_inference_pb2 as oip

Responses = dict[int | str, dict[str, Any]]
_PARAMETERS = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]},
}
_DATA = {"type": "array", "items": {}, "description": "Values in row-major order, nested or flat; BYTES in base64."}
_TENSOR = {
    "name": {"type": "string"},
    "datatype": {"type": "string"},
    "shape": {"type": "array", "items": {"type": "integer"}},
    "parameters": _PARAMETERS,
    "data": _DATA,
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _answer(description: str, schema: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}, **others}}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_INPUT = _object(["name", "datatype", "shape"], **_TENSOR)
_INPUT["properties"] = {**_INPUT["properties"], "name": {"enum": ["tensor", "image"]}}
_OUTPUT = _object(["name"], name={"type": "string"}, parameters=_PARAMETERS)
INFER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _object(
                    ["inputs"],
                    id={"type": "string"},
                    parameters=_PARAMETERS,
                    inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _INPUT},
                    outputs={"type": "array", "items": _OUTPUT},
                )
            },
            "application/octet-stream": _BINARY,
        },
    }
}
_INFERRED = _object(
    ["model_name", "model_version", "outputs"],
    model_name={"type": "string"},
    model_version={"type": "string"},
    id={"type": "string"},
    outputs={"type": "array", "items": _object(["name", "datatype", "shape"], **_TENSOR)},
)
_BOOLEAN = {"type": "boolean"}
LIVE: Responses = {200: _answer("The process lives.", _object(["live"], live=_BOOLEAN))}
READY: Responses = {
    200: _answer("Every model can answer.", _object(["live", "ready"], live=_BOOLEAN, ready=_BOOLEAN))
}
MODEL_READY: Responses = {
    200: _answer("The model can answer.", _object(["name", "ready"], name={"type": "string"}, ready=_BOOLEAN))
}
SERVER_METADATA: Responses = reply(oip.ServerMetadataResponse)
MODEL_METADATA: Responses = reply(oip.ModelMetadataResponse)
INFERRED: Responses = {
    200: _answer("Outputs; data in binary follows the JSON.", _INFERRED, **{"application/octet-stream": _BINARY})
}
ERRORS: Responses = {"default": _answer("Why there is no answer.", _object(["error"], error={"type": "string"}))}
