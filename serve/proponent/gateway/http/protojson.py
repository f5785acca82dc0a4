"""From JSON to the proto's messages.

Field names are the proto's, in snake_case or camelCase; enum values may leave out their prefix
(``"influence"``, ``"theta-relatif"``, ``"thumbnail"``). An input is an image in base64 (``image``,
``image_b64`` or ``encoded_image``), a tensor (nested lists, or the proto's own form), a ``text``, a ``record`` (an
object of columns and values), or ``tensors`` (an object of names and nested lists).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from proponent.gateway.http.json_values import bad_field, check_words, image_bytes, kind_of, number_array
from proponent.tensor_messages import JSON_NUMBERS, JSON_TRUTH
from proponent.v1 import explanation_pb2 as pb

IMAGE_KEYS = ("image", "image_b64", "encoded_image")
_FIELD_IN_MESSAGE = (
    re.compile(r'no field named "([^"]+)"'),
    re.compile(r"Failed to parse (\w+) field"),
    re.compile(r" at \w+\.(\w+)$"),
)
_TRUTH = {"true": True, "false": False}
M = TypeVar("M", bound=Message)


def parse_query(values: Mapping[str, Any], request: M, model: str, path: str = "") -> M:
    """Fills a request that holds an input and options.

    Raises:
        InvalidInputError: Names the key at fault below ``path``.
    """
    normal = {_snake(key): value for key, value in values.items()}
    if "model" in normal:
        raise bad_field("the model is named by the path, not by a key", f"{path}model")
    image = _image(normal, path)
    check_words(normal, path)
    tensor = normal.pop("tensor", None) if isinstance(normal.get("tensor"), list) else None
    if "tensors" in normal:
        normal["tensors"] = _named_tensors(normal["tensors"], f"{path}tensors")
    parse_message(_plain_enums(normal, path), request, path)
    inputs: Any = request
    if image is not None:
        if inputs.WhichOneof("input"):
            raise bad_field("several inputs, expected one of them", f"{path}input")
        inputs.encoded_image = image
    if tensor is not None:
        if inputs.WhichOneof("input"):
            raise bad_field("several inputs, expected one of them", f"{path}input")
        inputs.tensor.CopyFrom(_tensor(tensor, f"{path}tensor"))
    inputs.model = model
    return request


def parse_parameters(pairs: Iterable[tuple[str, str]], message: M) -> M:
    """Adds the parameters of a URL to a message; a list is given by one of them for each element.

    Raises:
        InvalidInputError: Names the parameter at fault.
    """
    fields: Any = message.DESCRIPTOR.fields_by_name
    taken = {field.name for field, _ in message.ListFields()}
    values: dict[str, Any] = {}
    for key, text in pairs:
        name = _snake(key)
        field = fields.get(name)
        if name in taken:
            raise bad_field("is named by the path, not by a parameter", name)
        if field is None:
            raise bad_field(f"no such parameter, expected one of {', '.join(sorted(set(fields) - taken))}", name)
        if field.is_repeated:
            values.setdefault(name, []).append(_value(field, text))
        elif name in values:
            raise bad_field("is given more than once", name)
        else:
            values[name] = _value(field, text)
    return parse_message(values, message)


def enum_prefix(enum: EnumDescriptor) -> str:
    """What the names of an enum's values begin with."""
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")


def _value(field: FieldDescriptor, text: str) -> Any:
    """A parameter's text as JSON has it; numbers may stay texts there."""
    if field.enum_type is not None:
        return _enum(text, field.enum_type, enum_prefix(field.enum_type), field.name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in _TRUTH:
            raise bad_field(f"value {text!r}, expected true or false", field.name)
        return _TRUTH[text]
    return text


def parse_message(values: Mapping[str, Any], message: M, path: str = "") -> M:
    """Fills a message from JSON; an unknown key or a wrong type is an InvalidInputError."""
    try:
        return json_format.ParseDict(dict(values), message)
    except json_format.ParseError as error:
        text = str(error).split(" Available Fields")[0].strip()
        found = next((match for pattern in _FIELD_IN_MESSAGE if (match := pattern.search(text))), None)
        told = "no such key" if "no field named" in text else text
        raise bad_field(told, path + _snake(found.group(1)) if found else path.rstrip(".")) from None
    except (RecursionError, UnicodeEncodeError, OverflowError, TypeError, AttributeError) as error:
        raise bad_field(f"cannot be read: {error}", path.rstrip(".")) from None
    except SystemError:  # what protobuf makes of a key that is not Unicode text
        raise bad_field("a key holds half of a surrogate pair, expected Unicode text", path.rstrip(".")) from None


def image_key(values: Mapping[str, Any]) -> str:
    """The key under which a caller sent the image."""
    return next((key for key in values if _snake(key) in IMAGE_KEYS), "encoded_image")


def _image(values: dict[str, Any], path: str) -> bytes | None:
    """Takes the image out of the values."""
    found = [key for key in IMAGE_KEYS if values.get(key) is not None]
    if not found:
        return None
    if len(found) > 1:
        raise bad_field(f"an image under each of {' and '.join(found)}, expected one", f"{path}{found[1]}")
    value = values.pop(found[0])
    text = value.get("b64") if isinstance(value, dict) and set(value) == {"b64"} else value
    return image_bytes(text, path + found[0], 'base64 text, or {"b64": "..."}')


def _tensor(values: Any, path: str) -> pb.Tensor:
    array = number_array(values, path, "iufb")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return pb.Tensor(shape=array.shape, dtype="float32", data=array.astype("<f4").tobytes())
    given = JSON_TRUTH if array.dtype.kind == "b" else JSON_NUMBERS
    return pb.Tensor(shape=array.shape, dtype=given, data=array.astype("<f8").tobytes())


def _named_tensors(given: Any, path: str) -> Any:
    """Nested lists by name, as the proto writes them; its own form stays as it is."""
    if not isinstance(given, dict):
        raise bad_field("expected an object of names and nested lists of numbers", path)
    named = given["tensors"] if set(given) == {"tensors"} and isinstance(given["tensors"], dict) else given
    return {"tensors": {name: _named_tensor(value, f"{path}.{name}") for name, value in named.items()}}


def _named_tensor(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list | int | float):
        raise bad_field(f"is {kind_of(value)}, expected nested lists of numbers", path, "TENSOR_WRONG_DTYPE")
    tensor = _tensor(value, path)
    data = base64.b64encode(tensor.data).decode()
    return {"shape": list(tensor.shape), "dtype": tensor.dtype, "data": data}


def _plain_enums(values: dict[str, Any], path: str) -> dict[str, Any]:
    """Writes enum values as the proto does."""
    if "measures" in values:
        given = values["measures"] if isinstance(values["measures"], list) else [values["measures"]]
        values["measures"] = [
            _enum(value, pb.Measure.DESCRIPTOR, "MEASURE_", f"{path}measures[{i}]") for i, value in enumerate(given)
        ]
    if "view" in values:
        values["view"] = _enum(values["view"], pb.View.DESCRIPTOR, "VIEW_", f"{path}view")
    diversity = values.get("diversity")
    if isinstance(diversity, dict) and "redundancy" in diversity:
        name = _enum(diversity["redundancy"], pb.Redundancy.DESCRIPTOR, "REDUNDANCY_", f"{path}diversity.redundancy")
        values["diversity"] = {**diversity, "redundancy": name}
    return values


def _enum(value: Any, kind: EnumDescriptor, prefix: str, path: str) -> Any:
    if not isinstance(value, str):
        return value
    name = value.upper().replace("-", "_")
    name = name if name.startswith(prefix) else prefix + name
    names = [known.name for known in kind.values]
    if name not in names:
        known = ", ".join(each.removeprefix(prefix).lower() for each in names[1:])
        raise bad_field(f"value {value!r} is unknown, expected one of {known}", path, f"{prefix}UNKNOWN")
    return name


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match.group(1).lower(), key)
