"""When a call is tried again, and after how long."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from proponent.client.failures import Failure
from proponent.errors import OverloadedError, UnavailableError


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with full jitter, within the deadline of the whole call.

    Only UNAVAILABLE and RESOURCE_EXHAUSTED are tried again, as the same call may then succeed; a server's RetryInfo
    is the shortest wait. Every call of the service only reads, so that a repeated one changes nothing.

    Attributes:
        attempts: Most tries of one call; 1 never repeats.
        initial_s: Longest wait before the second try.
        multiplier: Growth of that wait from try to try.
        max_s: Its limit.

    >>> Retry(attempts=2).max_s
    5.0
    """

    attempts: int = 4
    initial_s: float = 0.2
    multiplier: float = 2.0
    max_s: float = 5.0

    def wait_s(self, failure: Failure, tried: int) -> float | None:
        """Seconds to wait after a call has been tried so often; None where it is not to be repeated."""
        if tried >= self.attempts or not isinstance(failure.error, UnavailableError | OverloadedError):
            return None
        longest = min(self.max_s, self.initial_s * self.multiplier ** (tried - 1))
        return failure.retry_delay_s + random.uniform(0.0, longest)


BACKOFF = Retry()


class Deadline:
    """The end of a call with all its tries."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Seconds left, never negative; None without a deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def allows(self, wait_s: float) -> bool:
        """Whether there is time to wait so long and try again."""
        left = self.left_s()
        return left is None or wait_s < left
