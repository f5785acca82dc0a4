"""One connection of the HTTP transport: uvicorn's protocol with an end to everything that a caller can draw out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proponent.errors import InvalidInputError
from proponent.gateway.error_mapping import PROBLEM_TYPE, problem
from proponent.gateway.http.framing import Framing, RefusedError
from proponent.gateway.settings import Settings

# What is parsed in one step.
_PIECE = 8 << 10


class BoundedConnection(HttpToolsProtocol):
    """Ends when headers do not come in time, a reply is not taken, or an unwanted body goes on.

    The time of a wanted body is kept where it is read (``body.py``), so that its caller gets an answer.
    """

    def __init__(self, *arguments: Any, settings: Settings, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._framing = Framing()
        self._settings = settings
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for headers."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Reads on; goes on waiting for headers as long as they are not complete."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            self._parse(data[start : start + _PIECE])
        if self._receiving is None and not self._framing.in_body and self._is_idle():
            self._await_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header; those behind a body (trailers) change nothing of a request that is being answered."""
        if not self._framing.in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begins to answer."""
        self._framing.begin_body(self.headers, self.parser.get_http_version())
        self._receive_in_time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Takes some of the content of a body."""
        self._framing.add_content(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._framing.end_body()
        self._receive_in_time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Lets a caller finish a body that nobody wants, so that the answer is seen, but not for ever."""
        super().on_response_complete()
        if self._framing.in_body:
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
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP as every other error is answered, where an answer can still be begun."""
        if not self._is_idle():
            self.cycle.disconnected = True  # an answer of the application would be a second one
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        body = json.dumps(problem(InvalidInputError(msg, reason="HTTP_INVALID"))).encode()
        head = f"content-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[400] + head.encode() + body)
        self.transport.close()

    def _parse(self, piece: bytes) -> None:
        try:
            with self._framing.counted(len(piece)):
                self.parser.feed_data(piece)
        except RefusedError as error:
            self.send_400_response(str(error))
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # what follows is another protocol, which nobody speaks here
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.send_400_response(str(cause if isinstance(cause, RefusedError) else error))

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

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
