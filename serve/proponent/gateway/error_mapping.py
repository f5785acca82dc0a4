"""The one mapping between errors, gRPC statuses and HTTP problems."""

from __future__ import annotations

import re
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from proponent.errors import (
    CorruptBundleError,
    DeadlineError,
    InternalError,
    InvalidInputError,
    MismatchError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProponentError,
    UnavailableError,
)
from proponent.v1.explanation_pb2 import ItemError

DOMAIN = "proponent"
PROBLEM_TYPE = "application/problem+json"
UNAUTHENTICATED = "UNAUTHENTICATED"
BODY_TOO_LARGE = "BODY_TOO_LARGE"
BODY_TIMEOUT = "BODY_TIMEOUT"
UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
RETRY_SECONDS = {"OVERLOADED": 1, "BODIES_FULL": 1}
# Of an absolute path, all but the last name: /srv/models/toy/catalog.sqlite
_DIRECTORIES = re.compile(r"(?<![\w.:/-])/(?:[^\s/:;,'\"]+/)+")
DEFECT = "the service failed; its log has the details under this request's id"
_RETRY_DEFAULT = 2

_log = structlog.get_logger("proponent.gateway")

# First match wins, so a kind stands before the kinds that it specialises.
_KINDS: tuple[tuple[type[ProponentError], int, int], ...] = (
    (InvalidInputError, code_pb2.INVALID_ARGUMENT, 400),
    (NotFoundError, code_pb2.NOT_FOUND, 404),
    (PermissionDeniedError, code_pb2.PERMISSION_DENIED, 403),
    (MismatchError, code_pb2.FAILED_PRECONDITION, 409),
    (OverloadedError, code_pb2.RESOURCE_EXHAUSTED, 429),
    (UnavailableError, code_pb2.UNAVAILABLE, 503),
    (DeadlineError, code_pb2.DEADLINE_EXCEEDED, 504),
    (ProponentError, code_pb2.INTERNAL, 500),
)
_REASONS: dict[str, tuple[int, int]] = {
    UNAUTHENTICATED: (code_pb2.UNAUTHENTICATED, 401),
    BODY_TOO_LARGE: (code_pb2.RESOURCE_EXHAUSTED, 413),
    BODY_TIMEOUT: (code_pb2.DEADLINE_EXCEEDED, 408),
    UNSUPPORTED_MEDIA_TYPE: (code_pb2.INVALID_ARGUMENT, 415),
    METHOD_NOT_ALLOWED: (code_pb2.UNIMPLEMENTED, 405),
}
_GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_TITLES = {
    400: "Invalid input",
    401: "Not authenticated",
    403: "Not permitted",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timed out",
    409: "Model and bundle do not match",
    413: "Request too large",
    415: "Unsupported content type",
    429: "Overloaded",
    500: "Internal error",
    503: "Unavailable",
    504: "Deadline exceeded",
}


def _numbers(error: ProponentError) -> tuple[int, int]:
    special = _REASONS.get(error.reason)
    if special is not None:
        return special
    return next((code, http) for kind, code, http in _KINDS if isinstance(error, kind))


def public_text(message: str) -> str:
    """A message for callers: files by their names, without the directories of this machine."""
    return _DIRECTORIES.sub("", message)


def note_hidden(error: ProponentError, request_id: str) -> None:
    """Logs a message of which callers see less."""
    if public_text(error.message) != error.message:
        _log.warning("error", reason=error.reason, detail=error.message, request_id=request_id)


def rpc_code(error: ProponentError) -> int:
    """Number of the google.rpc.Code."""
    return _numbers(error)[0]


def grpc_code(error: ProponentError) -> grpc.StatusCode:
    """The same as gRPC's own enum."""
    return _GRPC_CODES[rpc_code(error)]


def http_status(error: ProponentError) -> int:
    """HTTP status."""
    return _numbers(error)[1]


def retry_after(error: ProponentError) -> int | None:
    """Seconds after which the same call may succeed; None where it will not."""
    if isinstance(error, CorruptBundleError) or not isinstance(error, OverloadedError | UnavailableError):
        return None
    return RETRY_SECONDS.get(error.reason, _RETRY_DEFAULT)


def rpc_status(error: ProponentError) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they apply."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidInputError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=public_text(error.message)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    seconds = retry_after(error)
    if seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)))
    status = status_pb2.Status(code=rpc_code(error), message=public_text(error.message))
    status.details.extend(_packed(detail) for detail in details)
    return status


def problem(error: ProponentError) -> dict[str, Any]:
    """Problem details (RFC 9457); ``reason`` and ``field`` are extension members."""
    status = http_status(error)
    return {
        "type": f"urn:{DOMAIN}:error:{error.reason.lower()}",
        "title": _TITLES[status],
        "status": status,
        "detail": public_text(error.message),
        "reason": error.reason,
        "field": error.field,
    }


def to_item_error(error: ProponentError) -> ItemError:
    """The error of one item of a stream."""
    return ItemError(code=rpc_code(error), reason=error.reason, message=public_text(error.message), field=error.field)


def from_item_error(item: ItemError) -> ProponentError:
    """What a worker said of one item, as an error of this side; an unknown code is an InternalError."""
    if item.reason == CorruptBundleError.default_reason:
        kind: type[ProponentError] = CorruptBundleError
    else:
        kind = next((kind for kind, code, _ in _KINDS[:-1] if code == item.code), InternalError)
    return kind(item.message, field=item.field, reason=item.reason)


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
