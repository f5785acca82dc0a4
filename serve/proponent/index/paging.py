"""Where a page of a list begins, as text for callers: it holds for one list of one bundle."""

from __future__ import annotations

import base64
import hashlib
import json

from proponent.errors import InvalidInputError

_DIGEST = 16
_LIST = 8


def page_token(digest: str, *parts: object) -> str:
    """The text of a place.

    Args:
        digest: Of the bundle.
        parts: What the place consists of; their texts hold no spaces.
    """
    text = " ".join([digest[:_DIGEST], *map(str, parts)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def token_parts(token: str, digest: str, count: int) -> list[str]:
    """The parts of a token, as texts.

    Raises:
        InvalidInputError: It is not a token (PAGE_TOKEN_INVALID), or belongs to another bundle (PAGE_TOKEN_STALE).
    """
    try:
        padded = token.encode() + b"=" * (-len(token) % 4)
        whose, *parts = base64.b64decode(padded, b"-_", validate=True).decode().split(" ")
    except ValueError:
        raise bad_token() from None
    if len(parts) != count:
        raise bad_token()
    if whose != digest[:_DIGEST]:
        raise _refused("belongs to another bundle: begin again", "PAGE_TOKEN_STALE")
    return parts


def list_key(*what: object) -> str:
    """A short digest of what a list is of, so that no token is taken for a place in another one."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:_LIST]


def bad_token() -> InvalidInputError:
    """The error of a token that no server of this kind gave for this list."""
    return _refused("is not a token of a page of this list", "PAGE_TOKEN_INVALID")


def _refused(message: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"field 'page_token' {message}", field="page_token", reason=reason)
