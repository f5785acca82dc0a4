"""When a call is tried again, and after how long."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import grpc

from proponent.client.failures import Failure, failure_of
from proponent.errors import OverloadedError, UnavailableError

# A server that says "in an hour" speaks of a quota, which nobody waits for in a call.
_LONGEST_ADVICE_S = 60.0


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with full jitter, within the deadline of the whole call.

    Only UNAVAILABLE and RESOURCE_EXHAUSTED are tried again, as the same call may then succeed; a server's RetryInfo
    is the shortest wait, and one of more than a minute is not waited for. Every call of the service only reads, so
    that a repeated one changes nothing.

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
        if failure.retry_delay_s > _LONGEST_ADVICE_S:
            return None
        longest = min(self.max_s, self.initial_s * self.multiplier ** (tried - 1))
        return failure.retry_delay_s + random.uniform(0.0, longest)


BACKOFF = Retry()


class Tries:
    """The tries of one call, all within one deadline.

    Args:
        retry: When another one follows.
        timeout_s: Longest time of all together; None waits for ever.
    """

    def __init__(self, retry: Retry, timeout_s: float | None) -> None:
        self._retry = retry
        self._end = None if timeout_s is None else time.monotonic() + timeout_s
        self._failed = 0

    def left_s(self) -> float | None:
        """Seconds left, never negative; None without a deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def wait_s(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next try.

        Raises:
            ProponentError: No other try follows; it says why this one failed.
        """
        self._failed += 1
        failure = failure_of(error)
        wait_s, left_s = self._retry.wait_s(failure, self._failed), self.left_s()
        if wait_s is None or (left_s is not None and wait_s >= left_s):
            raise failure.error
        return wait_s
