"""From the content of an HTTP request to the messages it asks for: plain functions, which other processes may run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from proponent.errors import InvalidInputError, ProponentError
from proponent.gateway.http.protojson import M, image_key, parse_message, parse_query

_ALONE = ("text", "record", "tensors")
"""Inputs that may stand in a body by themselves, beside their options."""
_NUMBER_LISTS = ("allow_class_ids", "deny_class_ids")


@dataclass(frozen=True)
class Instance:
    """One input with its options as a message, or what is wrong with it.

    Attributes:
        message: A request of the type asked for.
        path: Where the input stands in the body, as a prefix of its fields' names.
        image_key: The caller's own name of the image.
    """

    message: Message | ProponentError
    path: str = ""
    image_key: str = "encoded_image"

    def located(self, error: ProponentError) -> ProponentError:
        """An error with its field named as the caller wrote it."""
        if isinstance(error, InvalidInputError) and not error.field.startswith(self.path.rstrip(".") or "\0"):
            error.field = f"{self.path}{self.image_key if error.field == 'encoded_image' else error.field}"
        return error


def instances_of_json(body: bytes, kind: type[Message], model: str, most: int) -> list[Instance]:
    """The instances of a body; options beside them hold for all.

    Raises:
        InvalidInputError: No instances, or more than ``most``, or one that is not an input at all.
    """
    values = json_object(body)
    if "instances" not in values and any(key in values for key in _ALONE):
        return [_instance(values, kind(), model, "")]
    instances = values.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidInputError("field 'instances' is missing or empty, expected a list of inputs", field="instances")
    if len(instances) > most:
        raise InvalidInputError(f"{len(instances)} instances, expected at most {most}", field="instances")
    shared = {key: value for key, value in values.items() if key != "instances"}
    merged = [_merged(value, shared, f"instances[{index}]") for index, value in enumerate(instances)]
    return [_instance(each, kind(), model, f"instances[{index}].") for index, each in enumerate(merged)]


def instance_of_image(image: bytes, options: Sequence[tuple[str, str]], kind: type[Message], model: str) -> Instance:
    """An instance from the bytes of an image and options that came as text."""
    try:
        message: Any = parse_query(structured_options(options), kind(), model)
    except ProponentError as error:
        return Instance(error)
    message.encoded_image = image
    return Instance(message, image_key="image" if image else "encoded_image")


def instance_of_text(body: bytes, options: Sequence[tuple[str, str]], kind: type[Message], model: str) -> Instance:
    """An instance from a text in UTF-8 and options that came as text."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        return Instance(InvalidInputError(f"text is not UTF-8: {error}", field="text", reason="TEXT_UNUSABLE"))
    try:
        message: Any = parse_query(structured_options(options), kind(), model)
    except ProponentError as error:
        return Instance(error)
    message.text = text
    return Instance(message)


def message_of_json(body: bytes, kind: type[M], model: str) -> M:
    """A message about one input and a group of examples: the input's fields stand below ``query``.

    Raises:
        InvalidInputError: Names the key at fault.
    """
    values = json_object(body)
    query = values.pop("query", None)
    if not isinstance(query, dict):
        raise InvalidInputError("field 'query' is missing, expected an object with the input", field="query")
    message: Any = parse_message(values, kind())
    parse_query(query, message.query, model, "query.")
    return message  # type: ignore[no-any-return]


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
    # Bytes as TensorFlow Serving's clients and KServe's first protocol write them.
    return {**shared, **({"image": value} if set(value) == {"b64"} else value)}


def _instance(values: dict[str, Any], message: Message, model: str, path: str) -> Instance:
    try:
        return Instance(parse_query(values, message, model, path), path, image_key(values))
    except ProponentError as error:
        return Instance(error, path)


def structured_options(options: Sequence[tuple[str, str]]) -> dict[str, Any]:
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
