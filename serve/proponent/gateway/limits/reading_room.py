"""Seats for those who read a message of unknown size: so few that all of the largest size fit into the memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ReadingRoom:
    """Seats, which nobody holds for long while others wait.

    A message that stalls would else keep everybody out: as many stalled calls as there are seats stopped all others
    for ``longest_s``.

    Args:
        seats: How many read at the same time.
        longest_s: Longest time in a seat.
        fair_s: The same where somebody waits for one; those who sit longest go first.
    """

    def __init__(self, seats: int, longest_s: float, fair_s: float) -> None:
        self._seats = asyncio.Semaphore(seats)
        self._longest_s = longest_s
        self._fair_s = fair_s
        self._waiting = 0
        self._seated: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """Waits for a seat and holds it; raises TimeoutError where either takes too long."""
        async with asyncio.timeout(self._longest_s):
            await self._wait()
        try:
            async with asyncio.timeout(self._longest_s) as patience:
                self._seated[patience] = asyncio.get_running_loop().time()
                self._hurry()
                try:
                    yield
                finally:
                    del self._seated[patience]
        finally:
            self._seats.release()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            if self._seats.locked():
                self._hurry()
            await self._seats.acquire()
        finally:
            self._waiting -= 1

    def _hurry(self) -> None:
        """Gives those who sit longest, one for each who waits, no more than the fair time."""
        for patience, since in list(self._seated.items())[: self._waiting]:
            end = patience.when()
            if end is not None and not patience.expired():
                patience.reschedule(min(end, since + self._fair_s))
