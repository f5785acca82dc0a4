"""Calls a second of each caller: a bucket of tokens that fills at the caller's rate and holds those of one second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proponent.errors import QuotaError
from proponent.gateway.auth import Caller

# Callers in memory; a bucket that is full again is forgotten without a difference.
_MOST_CALLERS = 10_000


class CallRates:
    """The buckets of all callers, by name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def take(self, caller: Caller) -> None:
        """Takes a token.

        Raises:
            QuotaError: None is left; says when one will be (RATE_LIMITED).
        """
        wait_s = self._reserve(caller, self._clock())
        if wait_s:
            message = f"caller {caller.name!r} may make {caller.allowance.rate:g} calls a second; try again"
            raise QuotaError(message, reason="RATE_LIMITED", retry_after_s=wait_s)

    async def wait(self, caller: Caller, longest_s: float) -> None:
        """Takes a token as soon as there is one; raises QuotaError where that takes too long."""
        end = self._clock() + longest_s
        while wait_s := self._reserve(caller, self._clock()):
            if self._clock() + wait_s > end:
                self.take(caller)
            await asyncio.sleep(wait_s)

    def _reserve(self, caller: Caller, now: float) -> float:
        """Takes a token, or returns the seconds until there is one."""
        rate = caller.allowance.rate
        if not rate:
            return 0.0
        full_at = max(self._full_at.get(caller.name, now), now)
        wait_s = full_at + 1 / rate - (now + max(1.0, 1 / rate))
        if wait_s > 0:
            return wait_s
        self._full_at[caller.name] = full_at + 1 / rate
        if len(self._full_at) > _MOST_CALLERS:
            self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        return 0.0
