"""Every error a user can meet, each kind with a stable reason code.

The reason travels unchanged through the handler, the gateway, gRPC details and problem+json, so a client
can branch on it. Each kind says what it is in gRPC, in HTTP and as an exit code of the command line.
"""

from __future__ import annotations

from collections.abc import Iterator


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Untrusted text with what cannot be seen as escapes: control characters, surrogates, marks of direction.

    Args:
        text: Any text.
        keep: Characters that stay as they are.

    Example:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class ProponentError(Exception):
    """Base of all errors with a message meant for the user.

    Attributes:
        message: A sentence that names the thing, the value and what was expected.
        field: The request field, configuration key or file at fault; empty where none applies.
        reason: Stable upper-case code, e.g. ``IMAGE_UNREADABLE``.
        code: Number of the google.rpc.Code; of the kind, like the next two.
        http_status: HTTP status.
        exit_code: Of the command line.

    Example:
        >>> error = NotFoundError("no model 'digit' (models: digits)", field="model", reason="MODEL_UNKNOWN")
        >>> error.reason, error.code, error.http_status, error.exit_code
        ('MODEL_UNKNOWN', 5, 404, 3)
    """

    default_reason = "INTERNAL"
    code = 13
    http_status = 500
    exit_code = 2

    def __init__(self, message: str, *, field: str = "", reason: str = "") -> None:
        super().__init__(printable(message))
        self.message = printable(message)
        self.field = printable(field)
        self.reason = reason or self.default_reason


class InvalidInputError(ProponentError):
    """The caller sent something unusable (gRPC INVALID_ARGUMENT, HTTP 400).

    >>> InvalidInputError("class id 12 is unknown, expected 0 to 9", field="target.class_id").http_status
    400
    """

    default_reason = "INVALID_INPUT"
    code = 3
    http_status = 400


class BodyTooLargeError(InvalidInputError):
    """A request's body exceeds its limit (RESOURCE_EXHAUSTED, 413)."""

    default_reason = "BODY_TOO_LARGE"
    code = 8
    http_status = 413


class BodyTimeoutError(InvalidInputError):
    """A request's body did not arrive in time (DEADLINE_EXCEEDED, 408)."""

    default_reason = "BODY_TIMEOUT"
    code = 4
    http_status = 408


class UnsupportedMediaTypeError(InvalidInputError):
    """A request's content type or encoding is not one that is read (INVALID_ARGUMENT, 415)."""

    default_reason = "UNSUPPORTED_MEDIA_TYPE"
    http_status = 415


class MethodNotAllowedError(InvalidInputError):
    """The path has no such HTTP method (UNIMPLEMENTED, 405)."""

    default_reason = "METHOD_NOT_ALLOWED"
    code = 12
    http_status = 405


class NotFoundError(ProponentError):
    """An unknown model, example or file (NOT_FOUND, 404).

    >>> NotFoundError("no model 'digit'", field="model", reason="MODEL_UNKNOWN").exit_code
    3
    """

    default_reason = "NOT_FOUND"
    code = 5
    http_status = 404
    exit_code = 3


class PermissionDeniedError(ProponentError):
    """The operator did not allow this (PERMISSION_DENIED, 403).

    >>> PermissionDeniedError("this server does not disclose thumbnails", field="view").http_status
    403
    """

    default_reason = "PERMISSION_DENIED"
    code = 7
    http_status = 403


class UnauthenticatedError(PermissionDeniedError):
    """No token, or one that is not known (UNAUTHENTICATED, 401)."""

    default_reason = "UNAUTHENTICATED"
    code = 16
    http_status = 401


class MismatchError(ProponentError):
    """Model and bundle do not belong together (FAILED_PRECONDITION, 409).

    >>> MismatchError("weights changed").reason
    'INDEX_MODEL_MISMATCH'
    """

    default_reason = "INDEX_MODEL_MISMATCH"
    code = 9
    http_status = 409
    exit_code = 4


class SamplesMissingError(ProponentError):
    """A bundle keeps no samples of the held-out data set (FAILED_PRECONDITION, 409).

    >>> SamplesMissingError("bundle 3f2a keeps no samples").http_status
    409
    """

    default_reason = "SAMPLES_MISSING"
    code = 9
    http_status = 409
    exit_code = 4


class HighlightsUnavailableError(ProponentError):
    """A bundle's scores do not let words be weighed (FAILED_PRECONDITION, 409).

    >>> HighlightsUnavailableError("scores are distilled from other trainings").exit_code
    4
    """

    default_reason = "HIGHLIGHTS_UNAVAILABLE"
    code = 9
    http_status = 409
    exit_code = 4


class OverloadedError(ProponentError):
    """Too many requests in flight (RESOURCE_EXHAUSTED, 429).

    Attributes:
        retry_after_s: Seconds after which there may be room.

    >>> OverloadedError("64 explanations are worked on and 512 wait").http_status
    429
    """

    default_reason = "OVERLOADED"
    code = 8
    http_status = 429

    def __init__(self, message: str, *, field: str = "", reason: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, field=field, reason=reason)
        self.retry_after_s = retry_after_s


class QuotaError(OverloadedError):
    """A caller has used up what it may have for now (RESOURCE_EXHAUSTED, 429).

    >>> QuotaError("caller 'alice' may make 5 calls a second", reason="RATE_LIMITED", retry_after_s=0.2).http_status
    429
    """

    default_reason = "QUOTA_SPENT"


class UnavailableError(ProponentError):
    """No worker with a consistent bundle is ready (UNAVAILABLE, 503).

    >>> UnavailableError("model 'digits' is starting", reason="WORKER_STARTING").http_status
    503
    """

    default_reason = "UNAVAILABLE"
    code = 14
    http_status = 503


class CorruptBundleError(UnavailableError):
    """A bundle file is missing, truncated or altered; the message names the file.

    >>> issubclass(CorruptBundleError, UnavailableError), CorruptBundleError("rows.faiss is damaged").exit_code
    (True, 4)
    """

    default_reason = "BUNDLE_CORRUPT"
    exit_code = 4


class DeadlineError(ProponentError):
    """The caller's deadline passed before an answer was ready (DEADLINE_EXCEEDED, 504).

    >>> DeadlineError("no slot became free within 2 s").http_status
    504
    """

    default_reason = "DEADLINE_EXCEEDED"
    code = 4
    http_status = 504


class SpecError(InvalidInputError):
    """A key of explain.yaml is missing or wrong; the message names key, value and expectation.

    >>> issubclass(SpecError, InvalidInputError), SpecError("key 'loss' is missing", field="loss").field
    (True, 'loss')
    """

    default_reason = "SPEC_INVALID"


class TrainingMismatchError(ProponentError):
    """The model does not behave like the one described: wrong transform, class order or weights."""

    default_reason = "ACCURACY_BELOW_EXPECTED"


class CurvatureError(ProponentError):
    """The curvature cannot be inverted as asked, e.g. an indefinite Hessian."""

    default_reason = "CURVATURE_UNUSABLE"


class BusyError(ProponentError):
    """Another process is changing the bundles of the same model."""

    default_reason = "REBUILD_RUNNING"
    exit_code = 5


class StorageError(ProponentError):
    """A disk is full or read-only; what was published stays as it was."""

    default_reason = "STORAGE"
    exit_code = 6


class InternalError(ProponentError):
    """A defect of the service itself; nothing the caller can mend (INTERNAL, 500)."""

    code = 13


def error_kind(code: int, reason: str = "") -> type[ProponentError]:
    """The kind of an error that came as a code and a reason: the one whose own reason it is, else the code's first.

    Example:
        >>> [error_kind(14, reason).__name__ for reason in ("BUNDLE_CORRUPT", "WORKER_STARTING")]
        ['CorruptBundleError', 'UnavailableError']
    """
    kinds = list(_kinds(ProponentError))
    own = (kind for kind in kinds if kind.code == code and kind.default_reason == reason)
    first = (kind for kind in kinds if vars(kind).get("code") == code)
    return next(own, None) or next(first, InternalError)


def _kinds(kind: type[ProponentError]) -> Iterator[type[ProponentError]]:
    """All kinds below one, each before those that specialise it."""
    below = kind.__subclasses__()
    yield from below
    for other in below:
        yield from _kinds(other)


def as_state(error: ProponentError) -> ProponentError:
    """An error as the state of a model, which every call is told: none of them is to blame for it."""
    if isinstance(error, UnavailableError | MismatchError):
        return error
    return UnavailableError(error.message, field=error.field, reason=error.reason)
