"""A listening socket that takes only so many connections, and keeps calm when files run out."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

_NO_FILES = (errno.EMFILE, errno.ENFILE)
# What the process opens beside connections: store, logs, its own sockets to the model server, libraries.
_RESERVED_FILES = 64
_FEWEST = 8

_log = structlog.get_logger("proponent.gateway")


def raise_file_limit() -> None:
    """Lets this process open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit(wanted: int, listeners: int = 2) -> int:
    """Connections that one of several listeners may take: those wanted, or its part of the files that may be open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        wanted
        if files == resource.RLIM_INFINITY
        else max(_FEWEST, min(wanted, (files - _RESERVED_FILES) // listeners))
    )


class Listener(socket.socket):
    """Connections over the limit are accepted and closed at once: left in the queue they would wake the loop again.

    A file kept in reserve does the same where the process has none left.

    Attributes:
        most: Connections that it takes.
        open: Connections that are open now.
    """

    def __init__(self, created: socket.socket, most: int) -> None:
        # asyncio turns Nagle's algorithm off only where the protocol is named, which create_server leaves at 0.
        super().__init__(created.family, created.type, socket.IPPROTO_TCP, created.detach())
        self.most = most
        self.open = 0
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for; raises BlockingIOError when none is left."""
        while True:
            try:
                connection, address = super().accept()
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                self._refuse_without_files()
                continue
            if self.open < self.most:
                self.open += 1
                return _Accepted(connection, self._closed_one), address
            connection.close()
            _log.warning("connection refused", open=self.open)

    def close(self) -> None:
        """Closes the socket and gives the reserve back."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        super().close()

    def _closed_one(self) -> None:
        self.open -= 1

    def _refuse_without_files(self) -> None:
        os.close(self._spare)
        try:
            connection, _ = super().accept()
            connection.close()
            _log.warning("connection refused: no file is left", open=self.open)
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY)


class _Accepted(socket.socket):
    """A connection that says when it is closed."""

    def __init__(self, accepted: socket.socket, closed: Callable[[], None]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._on_close: Callable[[], None] | None = closed

    def close(self) -> None:
        """Closes it."""
        super().close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None
