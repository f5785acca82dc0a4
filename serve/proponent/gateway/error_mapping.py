"""Errors as gRPC statuses, items of a stream and HTTP problems, and back."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from proponent.errors import (
    CorruptBundleError,
    InternalError,
    InvalidInputError,
    OverloadedError,
    ProponentError,
    UnavailableError,
    error_kind,
)
from proponent.v1.explanation_pb2 import ItemError

DOMAIN = "proponent"
PROBLEM_TYPE = "application/problem+json"
# Of an absolute path, all but the last name: /srv/models/toy/catalog.sqlite
_DIRECTORIES = re.compile(r"(?<![\w.:/-])/(?:[^\s/:;,'\"]+/)+")
DEFECT = "the service failed; its log has the details under this request's id"
_RETRY_DEFAULT = 2
# gRPC sends a message twice and refuses metadata of more than 8 KiB; percent-encoded, a byte becomes three.
_LONGEST_MESSAGE, _LONGEST_FIELD = 1000, 250
ABANDONED = "CALL_ABANDONED"

_log = structlog.get_logger("proponent.gateway")

_GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_TITLES = {
    400: "Invalid input",
    401: "Not authenticated",
    403: "Not permitted",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timed out",
    409: "Precondition not met",
    413: "Request too large",
    415: "Unsupported content type",
    429: "Overloaded",
    500: "Internal error",
    503: "Unavailable",
    504: "Deadline exceeded",
}


def public_text(message: str) -> str:
    """A message for callers: files by their names, without the directories of this machine."""
    return _DIRECTORIES.sub("", message)


def _told(error: ProponentError) -> tuple[str, str]:
    """Message and field for callers, no longer than metadata may be."""
    return _shortened(public_text(error.message), _LONGEST_MESSAGE), _shortened(error.field, _LONGEST_FIELD)


def _shortened(text: str, size: int) -> str:
    """The beginning of a text, in so many bytes."""
    data = text.encode(errors="replace")
    return text if len(data) <= size else f"{data[: size - 3].decode(errors='ignore')}..."


def note_hidden(error: ProponentError, request_id: str) -> None:
    """Logs a message of which callers see less."""
    if public_text(error.message) != error.message:
        _log.warning("error", reason=error.reason, detail=error.message, request_id=request_id)


def grpc_code(error: ProponentError) -> grpc.StatusCode:
    """The code as gRPC's own enum."""
    return _GRPC_CODES[error.code]


def retry_after(error: ProponentError) -> int | None:
    """Seconds after which the same call may succeed; None where it will not."""
    if isinstance(error, CorruptBundleError) or not isinstance(error, OverloadedError | UnavailableError):
        return None
    return max(1, math.ceil(error.retry_after_s)) if isinstance(error, OverloadedError) else _RETRY_DEFAULT


def rpc_status(error: ProponentError) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo (``field`` in its metadata), and BadRequest or RetryInfo where they apply."""
    message, field = _told(error)
    metadata = {"field": field} if field else {}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidInputError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    seconds = retry_after(error)
    if seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)))
    status = status_pb2.Status(code=error.code, message=message)
    status.details.extend(_packed(detail) for detail in details)
    return status


def problem(error: ProponentError) -> dict[str, Any]:
    """Problem details (RFC 9457); ``reason`` and ``field`` are extension members."""
    status = error.http_status
    message, field = _told(error)
    return {
        "type": f"urn:{DOMAIN}:error:{error.reason.lower()}",
        "title": _TITLES[status],
        "status": status,
        "detail": message,
        "reason": error.reason,
        "field": field,
    }


def to_item_error(error: ProponentError) -> ItemError:
    """The error of one item of a stream."""
    message, field = _told(error)
    return ItemError(code=error.code, reason=error.reason, message=message, field=field)


def from_item_error(item: ItemError) -> ProponentError:
    """What a worker said of one item, as an error of this side; an unknown code is an InternalError."""
    return error_kind(item.code, item.reason)(item.message, field=item.field, reason=item.reason)


def reason_of(error: BaseException) -> str:
    """The reason of an error as metrics and traces name it: a cancelled call was left by its caller."""
    if isinstance(error, asyncio.CancelledError):
        return ABANDONED
    return error.reason if isinstance(error, ProponentError) else InternalError.default_reason


def as_proponent_error(error: Exception, request_id: str = "") -> ProponentError:
    """The error itself; a defect is logged with its traceback and becomes an InternalError that discloses nothing."""
    if isinstance(error, ProponentError):
        return error
    _log.error("defect", request_id=request_id, exc_info=error)
    return InternalError(DEFECT)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
