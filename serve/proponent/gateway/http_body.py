"""What comes in over HTTP: a bounded body that is JSON, a form with a file, or the bytes of an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import ImmutableMultiDict, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from proponent.errors import InvalidInputError
from proponent.gateway.http_json import parse_query
from proponent.gateway.status import BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE

JSON = "application/json"
FORM = "multipart/form-data"
IMAGES = ("image/png", "image/jpeg")
_NUMBER_LISTS = ("allow_class_ids", "deny_class_ids")
_NOT_OPTIONS = ("instances",)


@dataclass(frozen=True)
class Instance:
    """One input with its options, as the caller wrote it, and where it stands in the body."""

    values: Mapping[str, Any]
    path: str

    def fill(self, request: Any, model: str) -> Any:
        """The request that it asks for; raises InvalidInputError."""
        return parse_query(self.values, request, model, self.path)


@dataclass(frozen=True)
class RawImage:
    """The bytes of an image with options that came as text."""

    image: bytes
    options: Mapping[str, Any]
    path: str = ""

    @property
    def values(self) -> Mapping[str, Any]:
        """Where errors find the name of the image's field."""
        return {"image": ""} if self.image else {}

    def fill(self, request: Any, model: str) -> Any:
        """The request that it asks for; raises InvalidInputError."""
        filled = parse_query(self.options, request, model, self.path)
        filled.encoded_image = self.image
        return filled


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        InvalidInputError: Empty, or larger than the limit (reading stops there).
    """
    declared = request.headers.get("content-length", "")
    parts: list[bytes] = []
    size = 0
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    if not size:
        raise InvalidInputError("request body is empty", field="body", reason="BODY_EMPTY")
    return b"".join(parts)


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """A body that must be a JSON object. NaN and Infinity pass here, so that their field can be named later."""
    _require_type(request, (JSON,))
    body = await read_body(request, limit)
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"body is no valid JSON: {error}", field="body", reason="JSON_INVALID") from None
    if not isinstance(values, dict):
        raise InvalidInputError(
            f"body is a JSON {type(values).__name__}, expected an object", field="body", reason="JSON_INVALID"
        )
    return values


async def read_instances(request: Request, limit: int, most: int) -> list[Instance | RawImage]:
    """The inputs of a predict or explain request, in any of its forms.

    Raises:
        InvalidInputError: No such form, no input, or more than ``most`` of them.
    """
    kind = _require_type(request, (JSON, FORM, *IMAGES))
    if kind == JSON:
        return list(_json_instances(await read_json(request, limit), most))
    body = await read_body(request, limit)
    if kind == FORM:
        return [await _form_instance(request, body)]
    return [RawImage(body, _options(request.query_params))]


def _json_instances(body: dict[str, Any], most: int) -> list[Instance]:
    instances = body.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidInputError("field 'instances' is missing or empty, expected a list of inputs", field="instances")
    if len(instances) > most:
        raise InvalidInputError(f"{len(instances)} instances, expected at most {most}", field="instances")
    shared = {key: value for key, value in body.items() if key not in _NOT_OPTIONS}
    return [_json_instance(value, shared, f"instances[{index}].") for index, value in enumerate(instances)]


def _json_instance(value: Any, shared: Mapping[str, Any], path: str) -> Instance:
    if isinstance(value, list):
        value = {"tensor": value}
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"{path.rstrip('.')} is {value!r:.40}, expected an object or a tensor as nested lists",
            field=path.rstrip("."),
        )
    return Instance({**shared, **value}, path)


async def _form_instance(request: Request, body: bytes) -> RawImage:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, replay).form(max_files=1, max_fields=64, max_part_size=len(body))
    except HTTPException as error:
        raise InvalidInputError(f"form cannot be read: {error.detail}", field="body", reason="FORM_INVALID") from None
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise InvalidInputError("form has no file field 'image'", field="image", reason="INPUT_MISSING")
        content = await image.read()
        rest = [(key, value) for key, value in form.multi_items() if key != "image" and isinstance(value, str)]
        return RawImage(content, _options(ImmutableMultiDict([*request.query_params.multi_items(), *rest])))
    finally:
        await form.close()


def _options(text: ImmutableMultiDict[str, str]) -> dict[str, Any]:
    """Options as flat text: lists by commas or repetition; ``options`` holds a JSON object of the rest."""
    found: dict[str, Any] = {}
    for key in text:
        parts = [part.strip() for value in text.getlist(key) for part in value.split(",")]
        _place(found, key, parts, text[key])
    return found


def _place(found: dict[str, Any], key: str, parts: list[str], text: str) -> None:
    if key == "options":
        found.update(_json_option(text))
    elif key == "measures":
        found[key] = parts
    elif key == "class_id":
        found.setdefault("target", {})[key] = text
    elif key in ("for_class_id", "against_class_id"):
        found.setdefault("target", {}).setdefault("contrast", {})[key] = text
    elif key in (*_NUMBER_LISTS, "exclude_example_ids"):
        found.setdefault("filter", {})[key] = parts
    else:
        found[key] = text


def _json_option(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"field 'options' is no valid JSON: {error}", field="options") from None
    if not isinstance(values, dict):
        raise InvalidInputError("field 'options' is no JSON object", field="options")
    return values


def _require_type(request: Request, accepted: tuple[str, ...]) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        raise InvalidInputError(
            f"content type is {kind or 'missing'}, expected {', '.join(accepted)}",
            field="content-type",
            reason=UNSUPPORTED_MEDIA_TYPE,
        )
    return kind


def _too_large(limit: int) -> InvalidInputError:
    return InvalidInputError(f"request body is larger than {limit} bytes", field="body", reason=BODY_TOO_LARGE)
