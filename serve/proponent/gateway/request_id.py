"""Ids that follow a call through every log line and reply."""

from __future__ import annotations

import uuid

REQUEST_ID = "x-request-id"
_LONGEST = 128


def accept_request_id(given: str | None) -> str:
    """The caller's id when it is short printable ASCII, else a new one."""
    if given and len(given) <= _LONGEST and given.isascii() and given.isprintable():
        return given
    return str(uuid.uuid4())
