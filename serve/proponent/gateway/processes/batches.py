"""The requests that wait for the workers of a group, and how they become batches: as in TorchServe.

A worker takes what is there, up to a batch; a batch that is not full waits a moment for more. One worker at a time
does so, so that requests that come together stay together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from proponent.gateway.hosting.host import WorkerGoneError


@dataclass(frozen=True, eq=False)
class Pending:
    """A request, and where its reply goes."""

    request: bytes
    reply: asyncio.Future[bytes]

    def answer(self, reply: bytes) -> None:
        """Gives it its reply, if somebody still waits for that."""
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Gives it an error instead."""
        if not self.reply.done():
            self.reply.set_exception(error)


class Batches:
    """A line of requests.

    Args:
        most: Requests of a batch.
        delay_s: How long one that is not full waits for more.
    """

    def __init__(self, most: int, delay_s: float) -> None:
        self._most = most
        self._delay_s = delay_s
        self._line: deque[Pending] = deque()
        self._taking = asyncio.Lock()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()

    async def reply(self, request: bytes) -> bytes:
        """What a worker replies to a request, once it is its turn.

        Raises:
            WorkerGoneError: It died with the request, or none is left.
        """
        pending = Pending(request, asyncio.get_running_loop().create_future())
        self._line.append(pending)
        self._arrived.set()
        if len(self._line) >= self._most:
            self._full.set()
        try:
            return await pending.reply
        finally:
            if pending.reply.cancelled() and pending in self._line:
                self._line.remove(pending)

    async def take(self) -> list[Pending]:
        """The next batch; at least one request."""
        async with self._taking:
            while not self._line:
                self._arrived.clear()
                await self._arrived.wait()
            if len(self._line) < self._most and self._delay_s:
                self._full.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._delay_s)
            if not self._line:  # their callers have left
                return []
            return [self._line.popleft() for _ in range(min(self._most, len(self._line)))]

    def put_back(self, batch: list[Pending]) -> None:
        """Puts a batch that no worker has seen in front of the line."""
        self._line.extendleft(reversed(batch))
        self._arrived.set()

    def close(self) -> None:
        """Fails all that wait."""
        while self._line:
            self._line.popleft().fail(WorkerGoneError("its workers were ended"))
