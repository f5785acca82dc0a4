"""How a gateway and a worker process of its own send each other batches: a frame of messages, each with its length.

All lengths are 8 bytes, little endian: that of the frame, then that of each message before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

LENGTH = struct.Struct("<Q")


def pack(messages: Iterable[bytes]) -> bytes:
    """A frame of these messages."""
    parts = [part for message in messages for part in (LENGTH.pack(len(message)), message)]
    return b"".join([LENGTH.pack(sum(map(len, parts))), *parts])


def frame_size(head: bytes) -> int:
    """Bytes that follow the first ``LENGTH.size`` ones of a frame."""
    return int(LENGTH.unpack(head)[0])


def unpack(body: bytes) -> list[bytes]:
    """The messages of a frame.

    Raises:
        ValueError: It ends within one.
    """
    messages, at = [], 0
    while at < len(body):
        start = at + LENGTH.size
        at = start + frame_size(body[at:start].ljust(LENGTH.size, b"\xff"))
        messages.append(body[start:at])
    if at != len(body):
        raise ValueError(f"a frame of {len(body)} bytes ends within a message, expected {at}")
    return messages
