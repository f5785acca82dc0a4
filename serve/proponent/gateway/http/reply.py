"""From the proto's messages to JSON, in pieces: a large reply neither holds the event loop nor is held as a whole.

Every field is written, in snake_case; 64-bit integers are JSON numbers. All else is as ProtoJSON has it. The protobuf
library's own conversion works through each value anew and is several times slower.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from starlette.responses import Response, StreamingResponse

_PIECE = 64 << 10
_AT_ONCE = 16 << 10
"""Serialized size up to which a message is converted in one step: about a millisecond of work."""
_MESSAGES = 100
_NOT_FINITE = b"null"
_Convert = Callable[[Any], Any]
_Field = tuple[str, bool, bool, _Convert]
"""Name, whether it may be absent, whether it holds messages of ours, and how it is converted."""


def to_json(message: Message) -> dict[str, Any]:
    """A message as a JSON object."""
    return _converter(message.DESCRIPTOR)(message)


def json_response(content: dict[str, Any] | Message) -> Response:
    """A reply of JSON, whose messages are converted while it is sent where they are large."""
    if _size(content) <= _AT_ONCE:
        return Response(orjson.dumps(content, default=to_json), media_type="application/json")
    pieces = _joined(json_pieces(content))
    first, second = next(pieces), next(pieces, None)
    if second is None:
        return Response(first, media_type="application/json")

    async def sent() -> AsyncIterator[bytes]:
        yield first
        yield second
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece

    return StreamingResponse(sent(), media_type="application/json")


def _size(value: Any) -> int:
    """Serialized size of the messages in a reply."""
    if isinstance(value, Message):
        return value.ByteSize()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


def json_pieces(value: Any) -> Iterator[bytes]:
    """The JSON text of a message, an object, a list or a plain value, in pieces of few messages each."""
    if isinstance(value, Message):
        if value.ByteSize() <= _AT_ONCE:
            yield orjson.dumps(to_json(value))
        else:
            yield from _object(_present(value))
    elif isinstance(value, Mapping):
        yield from _object(value.items())
    elif isinstance(value, list) and all(map(_flat, value)):
        parts = (value[start : start + _MESSAGES] for start in range(0, len(value), _MESSAGES))
        yield from _enclosed(b"[]", ([orjson.dumps([to_json(each) for each in part])[1:-1]] for part in parts))
    elif isinstance(value, list):
        yield from _enclosed(b"[]", map(json_pieces, value))
    else:
        yield orjson.dumps(value)


def _object(pairs: Iterable[tuple[str, Any]]) -> Iterator[bytes]:
    def member(name: str, value: Any) -> Iterator[bytes]:
        yield orjson.dumps(name) + b":"
        yield from json_pieces(value)

    yield from _enclosed(b"{}", (member(*pair) for pair in pairs))


def _enclosed(brackets: bytes, values: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    yield brackets[:1]
    for position, value in enumerate(values):
        yield b"," if position else b""
        yield from value
    yield brackets[1:]


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same text in pieces that are worth a write."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _present(message: Message) -> Iterator[tuple[str, Any]]:
    """Fields by name: messages of ours and lists of them as they are, all else as JSON has it."""
    for name, optional, nested, convert in _fields(message.DESCRIPTOR):
        if not optional or message.HasField(name):
            value = getattr(message, name)
            yield name, (list(value) if isinstance(value, Sequence) else value) if nested else convert(value)


@cache
def _converter(descriptor: Descriptor) -> Callable[[Message], dict[str, Any]]:
    """A function made for messages of one kind: to go through a list of fields costs each message twice as much."""
    fields = _fields(descriptor)
    made: dict[str, Any] = {f"c{number}": field[3] for number, field in enumerate(fields)}
    values = [(field[0], field[1], _expression(number, *field)) for number, field in enumerate(fields)]
    first = next((number for number, (_, optional, _) in enumerate(values) if optional), len(values))
    lines = [
        "def convert(m):",
        f"    found = {{{', '.join(f'{name!r}: {value}' for name, _, value in values[:first])}}}",
    ]
    for name, optional, value in values[first:]:
        lines += [f"    if m.HasField({name!r}):"] if optional else []
        lines += [f"    {'    ' * optional}found[{name!r}] = {value}"]
    exec("\n".join([*lines, "    return found"]), made)  # of the names of the proto's fields alone
    return made["convert"]  # type: ignore[no-any-return]


def _expression(number: int, name: str, _: bool, __: bool, convert: _Convert) -> str:
    """The value of a field of the message ``m``; what most values need is written out, since calls cost more."""
    if convert is _same:
        return f"m.{name}"
    if convert is _double:
        return f"(v if (v := m.{name}) - v == 0 else c{number}(v))"
    return f"c{number}(m.{name})"


@cache
def _fields(descriptor: Descriptor) -> Sequence[_Field]:
    return [(field.name, field.has_presence, _is_ours(field), _conversion(field)) for field in descriptor.fields]


def _is_ours(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.message_type.full_name.startswith("google.")


def _conversion(field: FieldDescriptor) -> _Convert:
    if field.is_repeated and field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return _floats
    if field.is_repeated and _is_ours(field):
        return _messages
    single = _single(field)
    return (lambda values: [single(value) for value in values]) if field.is_repeated else single


def _single(field: FieldDescriptor) -> _Convert:
    if field.message_type is not None:
        return to_json if _is_ours(field) else _well_known
    if field.enum_type is not None:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda number: names.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _base64
    return {
        FieldDescriptor.CPPTYPE_DOUBLE: _double,
        FieldDescriptor.CPPTYPE_FLOAT: lambda value: _floats([value])[0],
    }.get(field.cpp_type, _same)


def _messages(values: Sequence[Message]) -> list[dict[str, Any]]:
    if not values:
        return []
    convert = _converter(values[0].DESCRIPTOR)
    return [convert(value) for value in values]


def _same(value: Any) -> Any:
    return value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode() if value else ""


def _double(value: float) -> float | str:
    """JSON has no word for a number that is not finite; ProtoJSON has."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _floats(values: Iterable[float]) -> list[float | str]:
    """The shortest numbers that are the same in single precision."""
    single = np.fromiter(values, np.float32)
    text = orjson.dumps(single, option=orjson.OPT_SERIALIZE_NUMPY)
    if _NOT_FINITE not in text:
        shortest: list[float | str] = orjson.loads(text)
        return shortest
    return [_double(float(str(value))) for value in single]


def _well_known(message: Message) -> Any:
    """A message of protobuf's own, as ProtoJSON has it."""
    if isinstance(message, Struct):
        return _struct(message.SerializeToString(deterministic=True))
    return message.ToJsonString() if hasattr(message, "ToJsonString") else json_format.MessageToDict(message)


@lru_cache(64)
def _struct(content: bytes) -> Any:
    """The audit of a bundle, which stands in each of its replies."""
    return json_format.MessageToDict(Struct.FromString(content))


def _flat(value: Any) -> bool:
    return isinstance(value, Message) and not _nested(value.DESCRIPTOR)


@cache
def _nested(descriptor: Descriptor) -> bool:
    return any(field.message_type is not None for field in descriptor.fields)
