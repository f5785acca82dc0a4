"""From the content of an HTTP request to the messages it asks for: plain functions, which other processes may run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from proponent.errors import InvalidInputError, ProponentError
from proponent.gateway.http.protojson import image_key, parse_message, parse_query
from proponent.v1 import explanation_pb2 as pb

_NUMBER_LISTS = ("allow_class_ids", "deny_class_ids")


@dataclass(frozen=True)
class Query:
    """One input with its options as a message, or why it is none.

    Attributes:
        message: A serialized request of the kind asked for.
        path: Where the input stands in the body, as a prefix of its fields' names.
        image_key: The caller's own name of the image.
    """

    message: bytes | ProponentError
    path: str = ""
    image_key: str = "encoded_image"

    def read(self, request: Any) -> Any:
        """The message; raises what was wrong with it."""
        if isinstance(self.message, ProponentError):
            raise self.message
        request.MergeFromString(self.message)
        return request

    def located(self, error: ProponentError) -> ProponentError:
        """An error with its field named as the caller wrote it."""
        if isinstance(error, InvalidInputError) and not error.field.startswith(self.path or "\0"):
            error.field = f"{self.path}{self.image_key if error.field == 'encoded_image' else error.field}"
        return error


@dataclass(frozen=True)
class Asked:
    """What the path of a request says: the name of the message's type and of the model."""

    kind: str
    model: str

    def empty(self) -> Any:
        """A message to fill."""
        return getattr(pb, self.kind)()


def queries_of_json(body: bytes, asked: Asked, most: int) -> list[Query]:
    """A query for each of the instances, options beside them holding for all.

    Raises:
        InvalidInputError: No instances, or more than ``most``, or one that is no input at all.
    """
    values = json_object(body)
    instances = values.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidInputError("field 'instances' is missing or empty, expected a list of inputs", field="instances")
    if len(instances) > most:
        raise InvalidInputError(f"{len(instances)} instances, expected at most {most}", field="instances")
    shared = {key: value for key, value in values.items() if key != "instances"}
    merged = [_merged(value, shared, f"instances[{index}]") for index, value in enumerate(instances)]
    return [_query(each, asked, f"instances[{index}].") for index, each in enumerate(merged)]


def query_of_image(image: bytes, options: Sequence[tuple[str, str]], asked: Asked) -> Query:
    """A query about the bytes of an image, with options that came as text."""
    try:
        message = parse_query(_structured(options), asked.empty(), asked.model)
    except ProponentError as error:
        return Query(error)
    message.encoded_image = image
    return Query(message.SerializeToString(), image_key="image" if image else "encoded_image")


def message_of_json(body: bytes, asked: Asked) -> bytes:
    """A message about one input and a group of examples: the input's fields stand below ``query``.

    Raises:
        InvalidInputError: Names the key at fault.
    """
    values, message = json_object(body), asked.empty()
    query = values.pop("query", None)
    if not isinstance(query, dict):
        raise InvalidInputError("field 'query' is missing, expected an object with the input", field="query")
    parse_message(values, message)
    parse_query(query, message.query, asked.model, "query.")
    return bytes(message.SerializeToString())


def json_object(text: bytes | str, field: str = "body") -> dict[str, Any]:
    """A JSON object. NaN and Infinity pass, so that their field can be named later.

    Raises:
        InvalidInputError: It is another thing.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{field} is not valid JSON: {error}", field=field, reason="JSON_INVALID") from None
    if not isinstance(values, dict):
        message = f"{field} is a JSON {type(values).__name__}, expected an object"
        raise InvalidInputError(message, field=field, reason="JSON_INVALID")
    return values


def _merged(value: Any, shared: Mapping[str, Any], path: str) -> dict[str, Any]:
    if isinstance(value, list):
        value = {"tensor": value}
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"{path} is {value!r:.40}, expected an object or a tensor as nested lists", field=path
        )
    return {**shared, **value}


def _query(values: dict[str, Any], asked: Asked, path: str) -> Query:
    try:
        filled: Message = parse_query(values, asked.empty(), asked.model, path)
    except ProponentError as error:
        return Query(error, path)
    return Query(filled.SerializeToString(), path, image_key(values))


def _structured(options: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Options as flat text: lists by commas or repetition; ``options`` holds a JSON object of the rest."""
    found: dict[str, Any] = {}
    for key in dict(options):
        texts = [text for name, text in options if name == key]
        _place(found, key, [part.strip() for text in texts for part in text.split(",")], texts[-1])
    return found


def _place(found: dict[str, Any], key: str, parts: list[str], text: str) -> None:
    if key == "options":
        found.update(json_object(text, key))
    elif key == "measures":
        found[key] = parts
    elif key == "class_id":
        _object(found, "target")[key] = text
    elif key in ("for_class_id", "against_class_id"):
        _object(_object(found, "target"), "contrast")[key] = text
    elif key in (*_NUMBER_LISTS, "exclude_example_ids"):
        _object(found, "filter")[key] = parts
    else:
        found[key] = text


def _object(found: dict[str, Any], key: str) -> dict[str, Any]:
    inner = found.setdefault(key, {})
    if not isinstance(inner, dict):
        raise InvalidInputError(f"field {key!r} is a JSON {type(inner).__name__}, expected an object", field=key)
    return inner


def option_bytes(options: Sequence[tuple[str, str]]) -> int:
    """Size of options that came as text."""
    return sum(len(text) for _, text in options)
