"""Around every HTTP request: its id, one log line, one measurement, and no defect that escapes as plain text."""

from __future__ import annotations

import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.http.problem import problem_response
from proponent.gateway.metrics import Metrics
from proponent.gateway.request_id import REQUEST_ID, accept_request_id

_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
CLIENT_CLOSED = 499  # as nginx counts a caller who left before the answer
_PROBES = ("/healthz", "/readyz", "/metrics")

_log = structlog.get_logger("proponent.http")


class RequestLog:
    """ASGI middleware; the id is found in ``request.state.request_id``."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and notes how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = accept_request_id(Headers(scope=scope).get(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            status = status or CLIENT_CLOSED
        except Exception as error:
            known = as_proponent_error(error, request_id)
            if not status:
                await problem_response(known)(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - started, request_id)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        self._metrics.http_duration.labels(route, method, str(status)).observe(seconds)
        write = _log.debug if route in _PROBES else _log.info
        write(
            "http",
            method=method,
            path=scope["path"],
            status=status,
            ms=round(seconds * 1000, 2),
            request_id=request_id,
        )
