"""Slots for those who read a message of unknown size: so few that all of the largest size fit into the memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ReadSlots:
    """Slots, which nobody holds for long while others wait.

    A message that stalls would else keep everybody out: as many stalled calls as there are slots stopped all others
    for ``longest_s``.

    Args:
        slots: How many read at the same time.
        longest_s: Longest time in a slot.
        fair_s: The same where somebody waits for one; those who sit longest go first.
    """

    def __init__(self, slots: int, longest_s: float, fair_s: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._longest_s = longest_s
        self._fair_s = fair_s
        self._waiting = 0
        self._held: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a slot and holds it; raises TimeoutError where either takes too long."""
        if self._slots.locked():
            async with asyncio.timeout(self._longest_s):
                await self._wait()
        else:
            await self._slots.acquire()
        try:
            async with asyncio.timeout(self._longest_s) as patience:
                self._held[patience] = asyncio.get_running_loop().time()
                self._shorten_longest()
                try:
                    yield
                finally:
                    del self._held[patience]
        finally:
            self._slots.release()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            self._shorten_longest()
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    def _shorten_longest(self) -> None:
        """Gives those who sit longest, one for each who waits, no more than the fair time."""
        for patience, since in list(self._held.items())[: self._waiting]:
            end = patience.when()
            if end is not None and not patience.expired():
                patience.reschedule(min(end, since + self._fair_s))
