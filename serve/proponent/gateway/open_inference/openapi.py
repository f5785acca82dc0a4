"""The parts of the OpenAPI description that belong to the protocol."""

from __future__ import annotations

from typing import Any

from proponent.gateway.http.openapi import DEADLINE
from proponent.gateway.http.schemas import answer, reply, with_names
from proponent.v1 import open_inference_pb2 as oip

_TEXT, _BOOLEAN = {"type": "string"}, {"type": "boolean"}
_PARAMETERS = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]},
}
_DATA = {"type": "array", "items": {}, "description": "Values in row-major order, nested or flat; BYTES in base64."}
_TENSOR = {
    "name": _TEXT,
    "datatype": _TEXT,
    "shape": {"type": "array", "items": {"type": "integer"}},
    "parameters": _PARAMETERS,
    "data": _DATA,
}


_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _some(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object of which some properties are always there."""
    return {"type": "object", "properties": properties, "required": required}


_INPUT = _some(["name", "datatype", "shape"], **_TENSOR)
_OUTPUT = _some(["name"], name=_TEXT, parameters=_PARAMETERS)
INFER_BODY: dict[str, Any] = {
    "parameters": [DEADLINE],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _some(
                    ["inputs"],
                    id=_TEXT,
                    parameters=_PARAMETERS,
                    inputs={"type": "array", "minItems": 1, "items": _INPUT},
                    outputs={"type": "array", "items": _OUTPUT},
                )
            },
            "application/octet-stream": _BINARY,
        },
    },
}
LIVE = answer("The process lives.", with_names(live=_BOOLEAN))
READY = answer("Every model can answer.", with_names(live=_BOOLEAN, ready=_BOOLEAN))
SERVER_METADATA = reply(oip.ServerMetadataResponse)
MODEL_METADATA = reply(oip.ModelMetadataResponse)
INFERRED = answer(
    "Outputs; data in binary follows the JSON.",
    _some(
        ["model_name", "model_version", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        outputs={"type": "array", "items": _some(["name", "datatype", "shape"], **_TENSOR)},
    ),
)
INFERRED[200]["content"]["application/octet-stream"] = _BINARY
ERRORS: dict[int | str, dict[str, Any]] = {"default": answer("Why there is no answer.", with_names(error=_TEXT))[200]}
