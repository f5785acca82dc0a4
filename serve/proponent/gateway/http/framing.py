"""How much of what a caller sends may be something else than the content of bodies.

Whatever a chunk holds, its content is handed on by a call of its own: a connection that sends chunks of one byte,
1 MB of them a second, would keep the event loop from everybody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LONGEST_HEAD = 64 << 10
# Framing that a body may have beside its content: short chunks, trailers.
_FREE_FRAMING = 4096
_CONTENT_PER_FRAMING = 32


class RefusedError(Exception):
    """What came in is not taken; the text says why."""


class Framing:
    """Counts the bytes of one connection, request by request.

    Attributes:
        in_body: Whether a request's headers are complete and its body is not.
    """

    def __init__(self) -> None:
        self.in_body = False
        self._head = 0
        self._framing = 0
        self._content = 0

    @contextmanager
    def counted(self, size: int) -> Iterator[None]:
        """Counts a piece that is parsed within the block.

        Raises:
            RefusedError: A head is too long, or a body mostly framing.
        """
        was_in_body, content = self.in_body, self._content
        yield
        if not self.in_body:
            self._head += size
            if self._head > _LONGEST_HEAD:
                raise RefusedError(f"the request's head has more than {_LONGEST_HEAD} bytes")
        elif was_in_body:
            self._framing += size - (self._content - content)
            if self._framing > _FREE_FRAMING + self._content // _CONTENT_PER_FRAMING:
                raise RefusedError("the chunks of the body are too short, or its trailers too long")

    def begin_body(self, headers: Sequence[tuple[bytes, bytes]], version: str) -> None:
        """Headers are complete.

        Raises:
            RefusedError: They do not name one host.
        """
        hosts = sum(name == b"host" for name, _ in headers)
        if hosts > 1 or (version == "1.1" and not hosts):
            raise RefusedError(f"the request has {hosts} host headers, expected one")
        self.in_body, self._framing, self._content = True, 0, 0

    def add_content(self, size: int) -> None:
        """Some of the content of a body has come."""
        self._content += size

    def end_body(self) -> None:
        """A body is complete."""
        self.in_body, self._head = False, 0
