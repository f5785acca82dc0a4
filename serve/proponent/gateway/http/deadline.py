"""How long an HTTP caller waits. HTTP has no word for it, so that a header of the service says it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from proponent.errors import InvalidInputError

TIMEOUT = "x-request-timeout"


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that the caller gives, None where it names none; raises InvalidInputError."""
    text = headers.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInputError(f"{TIMEOUT} is {text!r:.80}, expected seconds > 0, e.g. 0.5", field=TIMEOUT)
    return seconds
