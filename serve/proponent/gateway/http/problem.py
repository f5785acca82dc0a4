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


def problem_response(error: ProponentError, status: int | None = None, media_type: str = PROBLEM_TYPE) -> Response:
    """The reply for an error, with Retry-After where waiting helps; ``status`` overrides the error's own.

    KServe's and Triton's clients look for its text under ``error``.
    """
    seconds = retry_after(error)
    headers = {} if seconds is None else {"retry-after": str(seconds)}
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    found = problem(error)
    content = {**found, "status": status or found["status"], "error": found["detail"]}
    return JSONResponse(content, content["status"], headers=headers, media_type=media_type)


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler of ProponentError and of the framework's own HTTPException."""
    if isinstance(error, ProponentError):
        note_hidden(error, request.state.request_id)
    known = error if isinstance(error, ProponentError) else _of_framework(request, error)
    request.state.error_type = known.reason
    response = problem_response(known, media_type=_media_type(request))
    if isinstance(known, MethodNotAllowedError) and isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


def _media_type(request: Request) -> str:
    """The Open Inference Protocol knows no other than JSON."""
    return "application/json" if request.url.path.partition("/v2")[0] == "" else PROBLEM_TYPE


def _of_framework(request: Request, error: Exception) -> ProponentError:
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowedError(f"{request.method} is not possible at this path", field="method")
    return NotFoundError("no such path", field="path", reason="PATH_UNKNOWN")
