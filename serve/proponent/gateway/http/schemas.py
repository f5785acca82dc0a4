"""The proto's messages as OpenAPI describes them: query parameters, and replies as ``reply`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from proponent.gateway.http.protojson import enum_prefix
from proponent.v1.validate_pb2 import FieldRules
from proponent.v1.validate_pb2 import field as rules_of

_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
_NUMBERS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
_PATH = ("model", "sample_id", "example_id")


def parameters(request: type[Message]) -> dict[str, Any]:
    """The query parameters of a request, whose names the path holds: a route's ``openapi_extra``."""
    fields: Any = request.DESCRIPTOR.fields
    return {"parameters": [_parameter(field) for field in fields if field.name not in _PATH]}


def reply(message: type[Message], extra: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """A route's ``responses`` for a reply of JSON, with what else stands beside the message's fields."""
    descriptor: Any = message.DESCRIPTOR
    schema = _message(descriptor)
    schema["properties"] |= extra or {}
    return answer(f"{message.DESCRIPTOR.name} of the proto.", schema)


def answer(description: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """A route's ``responses`` for a reply of JSON."""
    return {200: {"description": description, "content": {"application/json": {"schema": schema}}}}


def with_names(**properties: Any) -> dict[str, Any]:
    """An object whose properties are always there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def answers(**lists: type[Message]) -> dict[int | str, dict[str, Any]]:
    """A route's ``responses`` for a reply with lists of messages, each of which may be an error instead."""
    error = with_names(error={"type": "object"})
    kinds: dict[str, Any] = {name: message.DESCRIPTOR for name, message in lists.items()}
    listed = {name: {"type": "array", "items": {"anyOf": [_message(kind), error]}} for name, kind in kinds.items()}
    return answer("One entry for each instance.", with_names(**listed, bundle_digest={"type": "string"}))


def _parameter(field: FieldDescriptor) -> dict[str, Any]:
    return {"name": field.name, "in": "query", "required": False, "schema": _bounded(field, _asked(field))}


def _asked(field: FieldDescriptor) -> dict[str, Any]:
    """A field as a caller may write it."""
    if field.enum_type is not None:
        prefix = enum_prefix(field.enum_type)
        names = [name.removeprefix(prefix).lower().replace("_", "-") for name in _names(field.enum_type)[1:]]
        return {"type": "string", "enum": names}
    return _value(field)


def _bounded(field: FieldDescriptor, schema: dict[str, Any]) -> dict[str, Any]:
    """Adds the bounds of the proto's rules."""
    options: Any = field.GetOptions()
    rules: FieldRules = options.Extensions[rules_of]
    if field.is_repeated:
        listed = rules.repeated
        bound = {"maxItems": listed.max_items} if listed.HasField("max_items") else {}
        return {"type": "array", "items": schema | _limits(listed.items), **bound}
    return schema | _limits(rules)


def _limits(rules: FieldRules) -> dict[str, Any]:
    kind = rules.WhichOneof("type")
    chosen: Any = getattr(rules, kind) if kind in ("int32", "int64", "double") else None
    if chosen is None:
        return {"maxLength": rules.string.max_len} if kind == "string" and rules.string.max_len else {}
    words = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}
    return {word: getattr(chosen, name) for name, word in words.items() if chosen.HasField(name)}


def _message(descriptor: Descriptor) -> dict[str, Any]:
    if descriptor.full_name.startswith("google."):
        return {"type": "string" if descriptor.name == "Duration" else "object"}
    properties = {field.name: _answered(field) for field in descriptor.fields}
    always = [field.name for field in descriptor.fields if not field.has_presence]
    return {"type": "object", "properties": properties, **({"required": always} if always else {})}


def _answered(field: FieldDescriptor) -> dict[str, Any]:
    schema = _value(field)
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _value(field: FieldDescriptor) -> dict[str, Any]:
    """One value of a field."""
    if field.message_type is not None:
        return _message(field.message_type)
    if field.enum_type is not None:
        return {"type": "string", "enum": _names(field.enum_type)}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "format": "byte"}
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"type": "boolean"}
    if field.cpp_type in _NUMBERS:
        return {"type": "number"}
    if field.cpp_type in _INTEGERS | _UNSIGNED:
        return {"type": "integer"}
    return {"type": "string"}


def _names(enum: EnumDescriptor) -> Sequence[str]:
    return [value.name for value in enum.values]
