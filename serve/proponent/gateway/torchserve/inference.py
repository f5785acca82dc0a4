"""TorchServe's inference API over HTTP: connections that are kept, one request on each at a time.

It costs this process less than a call by gRPC does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

Reply = tuple[int, bytes]


class ReplyError(Exception):
    """What came is no reply, or too large."""


class InferenceClient:
    """Posts bodies; both ends are processes of this machine.

    Args:
        most: Largest reply, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._host, self._port, self._headers = "", 0, ""
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    def connect(self, address: str, key: str) -> None:
        """Talks to another TorchServe from now on."""
        self.close()
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._headers = f"host: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/x-protobuf\r\n"

    def close(self) -> None:
        """Ends all connections; what waits on one gets a ConnectionError."""
        self._port = 0
        for connection in list(self._open):
            connection.abort()

    async def post(self, path: str, body: bytes) -> Reply:
        """The status and the body of the reply.

        Raises:
            ConnectionError: There is no TorchServe, or it went away.
            ReplyError: The reply cannot be used.
        """
        head = f"POST {path} HTTP/1.1\r\n{self._headers}content-length: {len(body)}\r\n\r\n"
        connection = self._idle.pop() if self._idle else await self._connected()
        try:
            reply = await connection.exchange(head.encode() + body)
        except BaseException:
            connection.abort()
            raise
        if connection in self._open:
            self._idle.append(connection)
        return reply

    async def _connected(self) -> _Connection:
        if not self._port:
            raise ConnectionRefusedError("no TorchServe is connected")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._most, self._lost), self._host, self._port
        )
        if connection.is_lost():
            raise ConnectionResetError("TorchServe ended the connection as soon as it had begun")
        self._open.add(connection)
        return connection

    def _lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """One kept connection; httptools calls the methods that begin with ``on_``."""

    def __init__(self, most: int, lost: Callable[[_Connection], None]) -> None:
        self._most = most
        self._lost = lost
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._reply: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport

    async def exchange(self, request: bytes) -> Reply:
        """Sends a whole request and returns its reply."""
        self._parts, self._size = [], 0
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def is_lost(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._transport.is_closing()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(ReplyError(f"TorchServe's reply cannot be read: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self)
        self._end(ConnectionResetError(f"TorchServe ended the connection: {error or 'it was closed'}"))

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        self._parts.append(part)
        if self._size > self._most:
            self._end(ReplyError(f"TorchServe's reply has more than {self._most} bytes"))

    def on_message_complete(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((self._parser.get_status_code(), b"".join(self._parts)))

    def _end(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)
