"""One connection of the HTTP transport: uvicorn's protocol with an end to everything that a caller can draw out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from proponent.errors import InvalidInputError
from proponent.gateway.error_mapping import PROBLEM_TYPE, problem
from proponent.gateway.http.parser import BoundedParser
from proponent.gateway.settings import Settings

_LONGEST_HEAD = 64 << 10
# One step of the parser.
_PIECE = 8 << 10


class BoundedConnection(H11Protocol):
    """Ends when headers do not come in time, a reply is not taken, or an unwanted body goes on.

    The time of a wanted body is kept where it is read (``body.py``), so that its caller gets an answer.
    """

    def __init__(self, *arguments: Any, settings: Settings, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = self._parser = BoundedParser(_LONGEST_HEAD)
        self._settings = settings
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for headers."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Reads on; goes on waiting for headers as long as they are not complete."""
        for start in range(0, len(data), _PIECE):
            if not self.transport.is_closing():
                super().data_received(data[start : start + _PIECE])
        if self.conn.their_state is h11.IDLE and self._receiving is None:
            self._await_headers()
        elif self.conn.their_state is not h11.IDLE and self.conn.our_state is h11.SEND_RESPONSE:
            self._receive_in_time()

    def on_response_complete(self) -> None:
        """Lets a caller finish a body that nobody wants, so that the answer is seen, but not for ever."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._receiving = self.loop.call_later(self._settings.idle_timeout, self.transport.abort)

    def pause_writing(self) -> None:
        """Begins to wait for a slow reader."""
        super().pause_writing()
        self._sending = self.loop.call_later(self._settings.transfer_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader came along."""
        super().resume_writing()
        self._send_in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        self._receive_in_time()
        self._send_in_time()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP as every other error is answered, where an answer can still be begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps(problem(InvalidInputError(self._parser.refusal or msg, reason="HTTP_INVALID"))).encode()
        headers = [("content-type", PROBLEM_TYPE), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True  # an answer of the application would be a second one
        self.transport.close()

    def _receive_in_time(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _send_in_time(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _await_headers(self) -> None:
        self._receiving = self.loop.call_later(self._settings.idle_timeout, self.transport.abort)
