"""From the proto's messages to JSON, in pieces: a large reply neither holds the event loop nor is held as a whole.

Every field is written, in snake_case; 64-bit integers are JSON numbers. All else is as ProtoJSON has it. The protobuf
library's own conversion works through each value anew and is several times slower.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from starlette.responses import Response, StreamingResponse

_PIECE = 64 << 10
_MESSAGES = 100
_Convert = Callable[[Any], Any]


def to_json(message: Message) -> dict[str, Any]:
    """A message as a JSON object."""
    return {name: _plain(value) for name, value in _present(message)}


def json_response(content: Mapping[str, Any] | Message) -> Response:
    """A reply of JSON, whose messages are converted while it is sent."""
    pieces = _joined(json_pieces(content))
    first, second = next(pieces), next(pieces, None)
    if second is None:
        return Response(first, media_type="application/json")

    async def sent() -> AsyncIterator[str]:
        yield first
        yield second
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece

    return StreamingResponse(sent(), media_type="application/json")


def json_pieces(value: Any) -> Iterator[str]:
    """The JSON text of a message, an object, a list or a plain value, in pieces of few messages each."""
    if isinstance(value, Message):
        yield from _object(_present(value))
    elif isinstance(value, Mapping):
        yield from _object(value.items())
    elif isinstance(value, list) and all(map(_flat, value)):
        parts = (value[start : start + _MESSAGES] for start in range(0, len(value), _MESSAGES))
        yield from _enclosed("[]", ([json.dumps([to_json(each) for each in part])[1:-1]] for part in parts))
    elif isinstance(value, list):
        yield from _enclosed("[]", map(json_pieces, value))
    else:
        yield json.dumps(value)


def _object(pairs: Iterable[tuple[str, Any]]) -> Iterator[str]:
    def member(name: str, value: Any) -> Iterator[str]:
        yield f"{json.dumps(name)}: "
        yield from json_pieces(value)

    yield from _enclosed("{}", (member(*pair) for pair in pairs))


def _enclosed(brackets: str, values: Iterable[Iterable[str]]) -> Iterator[str]:
    yield brackets[0]
    for position, value in enumerate(values):
        yield ", " if position else ""
        yield from value
    yield brackets[1]


def _joined(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that are worth a write."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return to_json(value)
    return [_plain(each) for each in value] if isinstance(value, list) and value else value


def _present(message: Message) -> Iterator[tuple[str, Any]]:
    """Fields by name: messages and lists of them as they are, all else as JSON has it."""
    for name, optional, convert in _fields(message.DESCRIPTOR):
        if not optional or message.HasField(name):
            yield name, convert(getattr(message, name))


@cache
def _fields(descriptor: Descriptor) -> Sequence[tuple[str, bool, _Convert]]:
    return [(field.name, field.has_presence, _conversion(field)) for field in descriptor.fields]


def _conversion(field: FieldDescriptor) -> _Convert:
    single = _single(field)
    return (lambda values: [single(value) for value in values]) if field.is_repeated else single


def _single(field: FieldDescriptor) -> _Convert:
    if field.message_type is not None:
        return json_format.MessageToDict if field.message_type.full_name.startswith("google.") else _same
    if field.enum_type is not None:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda number: names.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    return {FieldDescriptor.CPPTYPE_DOUBLE: _double, FieldDescriptor.CPPTYPE_FLOAT: _float}.get(field.cpp_type, _same)


def _same(value: Any) -> Any:
    return value


def _double(value: float) -> float | str:
    """JSON has no word for a number that is not finite; ProtoJSON has."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _float(value: float) -> float | str:
    """The shortest number that is the same in single precision."""
    return _double(float(str(np.float32(value))))


def _flat(value: Any) -> bool:
    return isinstance(value, Message) and not _nested(value.DESCRIPTOR)


@cache
def _nested(descriptor: Descriptor) -> bool:
    return any(field.message_type is not None for field in descriptor.fields)
