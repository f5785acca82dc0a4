"""Where the HTTP transport listens: uvicorn inside the gateway's own event loop."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from proponent.errors import SpecError
from proponent.gateway.http.connection import BoundedConnection
from proponent.gateway.limits.connections import Accepting, Listener, connection_limit
from proponent.gateway.setting_types import split_address
from proponent.gateway.settings import Settings
from proponent.gateway.tls import Tls

_BACKLOG = 1024


class HttpServer(uvicorn.Server):
    """uvicorn inside another's event loop: that one handles the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections, which their listeners count."""
        self.servers = [cast(Any, Accepting(each, self._protocol, self.config.ssl)) for each in sockets or ()]
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        return cast(asyncio.Protocol, protocol(config=self.config, server_state=self.server_state, app_state={}))


def listen(address: str, connections: int) -> Listener:
    """A listening socket that takes so many connections at most.

    Raises:
        SpecError: The address cannot be listened on.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        created = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SpecError(f"cannot listen on http_address {address!r}: {error}", field="http_address") from None
    return Listener(created, connection_limit(connections))


def http_server(app: FastAPI, settings: Settings, tls: Tls | None) -> HttpServer:
    """The server of an application."""
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(BoundedConnection, settings=settings)),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
        ssl_context_factory=None if tls is None else lambda *_: tls.http_context(),
    )
    return HttpServer(config)
