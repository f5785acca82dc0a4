"""Slots for those who read a message of unknown size: so few that all of the largest size fit into the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proponent.gateway.bound import Bound

T = TypeVar("T")


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
        self._held: dict[Bound, float] = {}

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """What is read in a slot, which is waited for; raises TimeoutError where either takes too long."""
        if self._slots.locked():
            with Bound(self._longest_s):
                await self._wait()
        else:
            await self._slots.acquire()
        try:
            with Bound(self._longest_s) as patience:
                return await self._read(read, patience)
        finally:
            self._slots.release()

    async def _read(self, read: Callable[[], Awaitable[T]], patience: Bound) -> T:
        self._held[patience] = asyncio.get_running_loop().time()
        try:
            if self._waiting:
                self._shorten_longest()
            return await read()
        finally:
            del self._held[patience]

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            self._shorten_longest()
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    def _shorten_longest(self) -> None:
        """Gives those who sit longest, one for each who waits, no more than the fair time."""
        now = asyncio.get_running_loop().time()
        for patience, since in list(self._held.items())[: self._waiting]:
            patience.shorten(since + self._fair_s - now)
