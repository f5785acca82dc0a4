"""Memory for request bodies: one account for all callers, so that many uploads together cannot fill the machine.

A caller who is known by a credential gets half of it, so that nobody's uploads shut the others out; one body alone
may be as large as there is room.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from proponent.errors import OverloadedError
from proponent.gateway.auth import Caller


class Reservation:
    """What one call, or an item of a stream, holds of the budget; given back when its block ends.

    Attributes:
        caller: Whose it is.
        size: Bytes.
    """

    def __init__(self, budget: BodyBudget, caller: Caller) -> None:
        self._budget = budget
        self.caller = caller
        self.size = 0

    def add(self, size: int) -> None:
        """Takes more.

        Raises:
            OverloadedError: So much is not left.
        """
        self._budget.require(self, size)
        self._budget.take(self, size)

    async def add_when_free(self, size: int) -> None:
        """Takes more as soon as so much is left; at once where nothing is held, so that no size waits for ever."""
        await self._budget.room(self, size)
        self._budget.take(self, size)


class BodyBudget:
    """Bytes that bodies may take together; a body counts from its first byte until its call is answered.

    Attributes:
        held: Bytes held now.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_caller = Counter[str]()
        self.held = 0
        self._freed = asyncio.Event()

    @contextmanager
    def reservation(self, caller: Caller) -> Iterator[Reservation]:
        """An account for one call."""
        reservation = Reservation(self, caller)
        try:
            yield reservation
        finally:
            self._release(reservation)

    def require(self, reservation: Reservation, size: int) -> None:
        """Raises OverloadedError where so much more is not left."""
        if not self._has_room(reservation, size):
            own = self._by_caller[reservation.caller.name]
            taken = f"{self.held} of {self._limit} bytes already, {own} of them this caller's"
            raise OverloadedError(f"request bodies take {taken}; try again", reason="BODIES_FULL")

    async def room(self, reservation: Reservation, size: int) -> None:
        """Waits until so much more is left."""
        while self.held and not self._has_room(reservation, size):
            self._freed.clear()
            await self._freed.wait()

    def take(self, reservation: Reservation, size: int) -> None:
        """Counts so much more."""
        self.held += size
        self._by_caller[reservation.caller.name] += size
        reservation.size += size

    def _has_room(self, reservation: Reservation, size: int) -> bool:
        own = self._by_caller[reservation.caller.name]
        has_others = own > reservation.size
        share = self._limit // 2 if reservation.caller.credential and has_others else self._limit
        return self.held + size <= self._limit and own + size <= share

    def _release(self, reservation: Reservation) -> None:
        name = reservation.caller.name
        self.held -= reservation.size
        self._by_caller[name] -= reservation.size
        if not self._by_caller[name]:
            del self._by_caller[name]
        self._freed.set()
