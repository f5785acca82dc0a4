"""A listening socket that takes only so many connections, and keeps calm when files run out."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

_NO_FILES = (errno.EMFILE, errno.ENFILE)
# What the process opens beside connections: store, logs, its own sockets to the model server, libraries.
_RESERVED_FILES = 64
_FEWEST = 8
# Connections that are accepted before others have their turn.
_AT_ONCE = 64

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


class Accepting:
    """The connections of a listener as protocols of the running event loop, whichever that is.

    A loop that accepts by itself would go past the listener's bounds. The rest is what uvicorn asks of a server.

    Args:
        listener: Listens already.
        protocol: Makes the protocol of a connection.
        tls: Context of the connections; None without TLS.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accepts no more."""
        self._loop.remove_reader(self._listener.fileno())
        for task in self._beginning:
            task.cancel()

    async def wait_closed(self) -> None:
        """Waits until none begins any more; those that have begun are their protocols'."""
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._tls)
        except OSError:  # the caller left, or does not speak TLS
            connection.close()


class _Accepted(socket.socket):
    """A connection that says when it is closed, or its file is closed by others."""

    def __init__(self, accepted: socket.socket, closed: Callable[[], None]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._on_close: Callable[[], None] | None = closed

    def close(self) -> None:
        """Closes it."""
        super().close()
        self._close_once()

    def detach(self) -> int:
        """Leaves the file to who closes it now: uvloop."""
        self._close_once()
        return super().detach()

    def _close_once(self) -> None:
        if self._on_close is not None:
            self._on_close()
            self._on_close = None
