"""How a gateway and its workers send each other batches: messages one after the other, each behind its length.

Over a socket a batch stands behind its own length, as a frame; over HTTP the body is the batch. All lengths are 8
bytes, little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

LENGTH = struct.Struct("<Q")
BATCH = "application/x-protobuf-batch"
"""Content type of a body of WorkerRequests; the answer to it is a body of as many WorkerReplies."""


def joined(messages: Iterable[bytes]) -> bytes:
    """These messages as one body."""
    return b"".join(part for message in messages for part in (LENGTH.pack(len(message)), message))


def pack(messages: Iterable[bytes]) -> bytes:
    """A frame of these messages."""
    body = joined(messages)
    return LENGTH.pack(len(body)) + body


def frame_size(head: bytes) -> int:
    """Bytes that follow the first ``LENGTH.size`` ones of a frame."""
    return int(LENGTH.unpack(head)[0])


def unpack(body: bytes) -> list[bytes]:
    """The messages of a body.

    Raises:
        ValueError: It ends within one.
    """
    messages, at = [], 0
    while at < len(body):
        start = at + LENGTH.size
        at = start + frame_size(body[at:start].ljust(LENGTH.size, b"\xff"))
        messages.append(body[start:at])
    if at != len(body):
        raise ValueError(f"a batch of {len(body)} bytes ends within a message, expected {at}")
    return messages
