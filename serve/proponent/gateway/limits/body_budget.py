"""Memory for request bodies: one account for all callers, so that many uploads together cannot fill the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from proponent.errors import OverloadedError


class Reservation:
    """What one call holds of the budget; given back when its block ends."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def add(self, size: int) -> None:
        """Takes more.

        Raises:
            OverloadedError: So much is not left.
        """
        self._budget.reserve(size)
        self.size += size


class BodyBudget:
    """Bytes that bodies may take together; a body counts from its first byte until its call is answered.

    Attributes:
        held: Bytes held now.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self._freed = asyncio.Event()

    @contextmanager
    def reservation(self) -> Iterator[Reservation]:
        """An account for one call."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.release(reservation.size)

    def reserve(self, size: int) -> None:
        """Takes some of what is left; raises OverloadedError."""
        if self.held + size > self._limit:
            raise OverloadedError(
                f"request bodies take {self.held} of {self._limit} bytes already; try again", reason="BODIES_FULL"
            )
        self.held += size

    async def reserve_when_free(self, size: int) -> None:
        """Takes as soon as so much is left; at once where nothing else is held, so that no size waits for ever."""
        while self.held and self.held + size > self._limit:
            self._freed.clear()
            await self._freed.wait()
        self.held += size

    def release(self, size: int) -> None:
        """Gives back."""
        self.held -= size
        self._freed.set()
