"""Around every HTTP request: its id, one log line, one measurement, and no defect that escapes as plain text."""

from __future__ import annotations

import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proponent.gateway.error_mapping import ABANDONED, as_proponent_error
from proponent.gateway.http.problem import problem_response
from proponent.gateway.metrics import Metrics, exemplar
from proponent.gateway.request_id import REQUEST_ID, accept_request_id
from proponent.gateway.tracing import UNTRACED, Span, Tracing

_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
CLIENT_CLOSED = 499  # as nginx counts a caller who left before the answer
_PROBES = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")

_log = structlog.get_logger("proponent.http")


class RequestLog:
    """ASGI middleware; ``request.state`` has the ``request_id`` and ``span``, and is told the ``error_type``."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and notes how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = accept_request_id(headers.get(REQUEST_ID))
        span = UNTRACED if scope["path"] in _PROBES else self._tracing.start("http", headers)
        scope.setdefault("state", {}).update(request_id=request_id, span=span, error_type="")
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
            scope["state"]["error_type"] = known.reason
            if not status:
                await problem_response(known)(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - started, request_id, span)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str, span: Span) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        error_type = scope["state"]["error_type"] or (ABANDONED if status == CLIENT_CLOSED else "")
        self._metrics.http_ended(route, method, status, error_type, seconds, exemplar(request_id, span.trace_id))
        span.end(
            f"{method} {route}",
            _attributes(scope, route, method, status, request_id),
            error_type,
            failed=status >= 500,
        )
        extra = {"reason": error_type, "trace_id": span.trace_id}
        write = _log.debug if route in _PROBES else _log.info
        write(
            "http",
            method=method,
            path=scope["path"],
            status=status,
            ms=round(seconds * 1000, 2),
            request_id=request_id,
            **{name: value for name, value in extra.items() if value},
        )


def _attributes(scope: Scope, route: str, method: str, status: int, request_id: str) -> dict[str, str | int]:
    return {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "proponent.request_id": request_id,
    }
