"""Errors as problem+json replies (RFC 9457)."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from proponent.errors import MethodNotAllowedError, NotFoundError, ProponentError
from proponent.gateway.error_mapping import (
    PROBLEM_TYPE,
    note_hidden,
    problem,
    retry_after,
)


def problem_response(error: ProponentError, status: int | None = None) -> Response:
    """The reply for an error, with Retry-After where waiting helps; ``status`` overrides the error's own."""
    seconds = retry_after(error)
    headers = {} if seconds is None else {"retry-after": str(seconds)}
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    content = problem(error) if status is None else {**problem(error), "status": status}
    return JSONResponse(content, content["status"], headers=headers, media_type=PROBLEM_TYPE)


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler of ProponentError and of the framework's own HTTPException."""
    if isinstance(error, ProponentError):
        note_hidden(error, request.state.request_id)
    known = error if isinstance(error, ProponentError) else _of_framework(request, error)
    request.state.error_type = known.reason
    response = problem_response(known)
    if isinstance(known, MethodNotAllowedError) and isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


def _of_framework(request: Request, error: Exception) -> ProponentError:
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowedError(f"{request.method} is not possible at this path", field="method")
    return NotFoundError("no such path", field="path", reason="PATH_UNKNOWN")
