"""The parts of the OpenAPI description that the routes cannot show by their types."""

from __future__ import annotations

from typing import Any

from proponent.gateway.error_mapping import PROBLEM_TYPE
from proponent.gateway.http.deadline import TIMEOUT
from proponent.gateway.http.schemas import answer, with_names
from proponent.options import DEFAULT_TOP_K

_NAMES = {"type": "array", "items": {"type": "string", "enum": ["influence", "theta-relatif", "l-relatif"]}}
_INPUT: dict[str, Any] = {
    "image": {
        "description": "PNG or JPEG in base64.",
        "oneOf": [
            {"type": "string"},
            {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]},
        ],
    },
    "tensor": {
        "description": "Instead of an image: nested lists of numbers, of the model's input shape.",
        "type": "array",
        "items": {},
    },
    "text": {"description": "A text, for a model that takes texts.", "type": "string", "minLength": 1},
    "record": {
        "description": "Values by column, for a model that takes rows of a table; null is a missing one.",
        "type": "object",
        "additionalProperties": {"type": ["number", "string", "boolean", "null"]},
    },
    "tensors": {
        "description": "Nested lists of numbers by the names of the model's inputs.",
        "type": "object",
        "additionalProperties": {"type": "array", "items": {}},
    },
    "request_id": {"type": "string"},
}
_OPTIONS: dict[str, Any] = {
    "measures": {**_NAMES, "description": "Left out: all three."},
    "top_k": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
    "target": {
        "type": "object",
        "description": "Left out: the predicted class.",
        "properties": {
            "class_id": {"type": "integer"},
            "contrast": {
                "type": "object",
                "properties": {"for_class_id": {"type": "integer"}, "against_class_id": {"type": "integer"}},
            },
        },
    },
    "filter": {
        "type": "object",
        "properties": {
            "allow_class_ids": {"type": "array", "items": {"type": "integer"}},
            "deny_class_ids": {"type": "array", "items": {"type": "integer"}},
            "exclude_example_ids": {"type": "array", "items": {"type": "string"}},
        },
    },
    "diversity": {
        "type": "object",
        "properties": {
            "redundancy": {"type": "string", "enum": ["sum", "facility-location", "mmd"]},
            "gamma": {"type": "number", "minimum": 0, "default": 1},
            "max_influence_loss": {"type": "number", "minimum": 0, "maximum": 1},
            "candidates": {"type": "integer"},
            "bandwidth": {"type": "number", "minimum": 0},
            "whole_dataset": {"type": "boolean"},
            "unscaled": {"type": "boolean"},
        },
    },
    "view": {
        "type": "string",
        "enum": ["id-only", "metadata", "thumbnail"],
        "default": "id-only",
        "description": "metadata adds sources (needs --allow-examples), thumbnail a PNG (needs --allow-thumbnails)",
    },
}
_WHEN: dict[str, Any] = {
    "deadline_policy": {
        "enum": ["DEADLINE_POLICY_FAIL_WHEN_LATE", "DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE"],
        "description": "What is answered when the explanation would be late.",
    },
    "explain_if": {
        "type": "object",
        "description": "Explains an input only if one of these holds; left out: every input.",
        "properties": {
            "confidence_below": {"type": "number", "minimum": 0, "maximum": 1},
            "sampled_share": {"type": "number", "minimum": 0, "maximum": 1},
        },
    },
}


DEADLINE: dict[str, Any] = {
    "name": TIMEOUT,
    "in": "header",
    "required": False,
    "description": "Seconds that the caller waits: the call's deadline, for its work too.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
"""What each call that a worker answers may be given."""


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    """The forms of a request about inputs; options beside ``instances`` count for each of them."""
    instance = {"type": "object", "properties": properties}
    shared = {key: value for key, value in properties.items() if key not in _INPUT}
    json_schema = {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": {"type": "array", "minItems": 1, "items": instance}, **shared},
    }
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string", "format": "binary"},
            "options": {"type": "string", "description": "A JSON object of options."},
        },
    }
    image = {"schema": {"type": "string", "format": "binary"}}
    content = {
        "application/json": {"schema": json_schema},
        "multipart/form-data": {"schema": form},
        "image/png": image,
        "image/jpeg": image,
        "text/plain": {"schema": {"type": "string", "minLength": 1, "description": "A text in UTF-8."}},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [DEADLINE]}


PREDICT_BODY = _body(_INPUT)
EXPLAIN_BODY = _body({**_INPUT, **_OPTIONS, **_WHEN})
QUERY_BODY: dict[str, Any] = {
    "parameters": [DEADLINE],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["query"],
                    "properties": {
                        "query": {"type": "object", "properties": {**_INPUT, **_OPTIONS}},
                        "example_ids": {"type": "array", "items": {"type": "string"}},
                        "estimator": {
                            "enum": [f"ESTIMATOR_{name}" for name in ("FIRST_ORDER", "SECOND_ORDER", "INFLUENCE_SUM")]
                        },
                        "max_size": {"type": "integer"},
                    },
                }
            }
        },
    },
}
_READY = {"type": "boolean"}
_NAME = {"type": "string"}
STATUS = answer("It is so.", with_names(status=_NAME))
MODEL_READY = answer("The model can answer.", with_names(name=_NAME, ready=_READY))
MODELS = answer(
    "Names, which of them can answer, and why the others cannot.",
    with_names(
        models={"type": "array", "items": _NAME},
        ready={"type": "object", "additionalProperties": _READY},
        unavailable={"type": "object", "additionalProperties": {"type": "object"}},
    ),
)
PAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Metrics.",
        "content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")},
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Problem details (RFC 9457).",
        "content": {
            PROBLEM_TYPE: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "reason": {"type": "string"},
                        "field": {"type": "string"},
                    },
                }
            }
        },
    }
}
