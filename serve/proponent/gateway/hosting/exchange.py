"""One request at a host: its caller waits until a deadline or leaves, its reply is followed beyond that."""

from __future__ import annotations

import asyncio
import time

from proponent.v1.worker_pb2 import WorkerReply

Group = tuple[str, str]
"""Name and version of the workers that are asked."""


class Exchange:
    """A request that a host has.

    Args:
        group: Whom it is for.
        ticket: Its place in the table of tickets.
        reply: What the host will reply; cancelled where that is not waited for any longer.
        timeout_s: How long the caller waits; then ``outcome`` is a TimeoutError.
        overdue_s: How long the reply is followed after that.

    Attributes:
        outcome: What the caller waits for; set by who asked, see ``end``.
        sent_at: When it was sent, in seconds of the monotonic clock.
        is_lost: Whether it is known that no reply will come.
    """

    __slots__ = ("_overdue_s", "_timer", "group", "is_lost", "outcome", "reply", "sent_at", "ticket")

    def __init__(
        self, group: Group, ticket: int, reply: asyncio.Future[bytes], timeout_s: float, overdue_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self.group, self.ticket, self.reply = group, ticket, reply
        self.outcome: asyncio.Future[WorkerReply] = loop.create_future()
        self.sent_at = time.monotonic()
        self.is_lost = False
        self._overdue_s = overdue_s
        self._timer = loop.call_later(timeout_s, self._be_late)

    def lose(self) -> None:
        """No reply will come."""
        self.is_lost = True
        self.reply.cancel()

    def end(self, outcome: WorkerReply | Exception) -> None:
        """The reply has come, or is not waited for any longer."""
        self._timer.cancel()
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)

    def _be_late(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._overdue_s, self.reply.cancel)
        if not self.outcome.done():
            self.outcome.set_exception(TimeoutError())
