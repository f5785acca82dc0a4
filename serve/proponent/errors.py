"""Every error a user can meet, each kind with a stable reason code.

The reason travels unchanged through the handler, the gateway, gRPC details and problem+json, so a client
can branch on it. The kind decides the status code (see ``gateway.status``).
"""

from __future__ import annotations


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Text of a stranger with what cannot be seen as escapes: control characters, surrogates, marks of direction.

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
    """

    default_reason = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", reason: str = "") -> None:
        super().__init__(printable(message))
        self.message = printable(message)
        self.field = printable(field)
        self.reason = reason or self.default_reason


class InvalidInputError(ProponentError):
    """The caller sent something unusable (gRPC INVALID_ARGUMENT, HTTP 400)."""

    default_reason = "INVALID_INPUT"


class NotFoundError(ProponentError):
    """An unknown model, example or file (NOT_FOUND, 404)."""

    default_reason = "NOT_FOUND"


class PermissionDeniedError(ProponentError):
    """The operator did not allow this (PERMISSION_DENIED, 403)."""

    default_reason = "PERMISSION_DENIED"


class MismatchError(ProponentError):
    """Model and bundle do not belong together (FAILED_PRECONDITION, 409)."""

    default_reason = "INDEX_MODEL_MISMATCH"


class OverloadedError(ProponentError):
    """Too many requests in flight (RESOURCE_EXHAUSTED, 429)."""

    default_reason = "OVERLOADED"


class UnavailableError(ProponentError):
    """No worker with a consistent bundle is ready (UNAVAILABLE, 503)."""

    default_reason = "UNAVAILABLE"


class CorruptBundleError(UnavailableError):
    """A bundle file is missing, truncated or altered; the message names the file."""

    default_reason = "BUNDLE_CORRUPT"


class DeadlineError(ProponentError):
    """The caller's deadline passed before an answer was ready (DEADLINE_EXCEEDED, 504)."""

    default_reason = "DEADLINE_EXCEEDED"


class SpecError(InvalidInputError):
    """A key of explain.yaml is missing or wrong; the message names key, value and expectation."""

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


class StorageError(ProponentError):
    """A disk is full or read-only; what was published stays as it was."""

    default_reason = "STORAGE"


class InternalError(ProponentError):
    """A defect of the service itself; nothing the caller can mend (INTERNAL, 500)."""


def as_state(error: ProponentError) -> ProponentError:
    """An error as the state of a model, which every call is told: none of them is to blame for it."""
    if isinstance(error, UnavailableError | MismatchError):
        return error
    return UnavailableError(error.message, field=error.field, reason=error.reason)
