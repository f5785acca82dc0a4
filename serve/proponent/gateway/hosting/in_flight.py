"""The requests that a host has, and which of them it has lost.

A worker's death takes what it had begun with, of which its host says so, and with TorchServe also what waited for its
next batch to fill, of which nothing is said: no answer would ever come. The order tells: requests are taken up as
they came, so once a question is answered, all that came before the question are at workers. What no worker knows of
then is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from proponent.bounds.liveness import TicketIssuer

_MARGIN_S = 1.0
"""Longest time in which two requests may overtake each other on their ways in, or one that was taken up is under
way to its worker."""

Group = tuple[str, str]
"""Name and version of the workers that are asked."""

_log = structlog.get_logger("proponent.gateway")


@dataclass(eq=False)
class Exchange:
    """A request that a host has.

    Attributes:
        group: Whom it is for.
        ticket: Its place in the table of tickets.
        sent_at: When it was sent, in seconds of the monotonic clock.
        bound: How long its reply is waited for.
        is_lost: Whether it is known that no reply will come.
    """

    group: Group
    ticket: int
    sent_at: float
    bound: asyncio.Timeout
    is_lost: bool = False


class InFlight:
    """What hosts were sent and have not answered."""

    def __init__(self) -> None:
        self._exchanges: set[Exchange] = set()

    @contextmanager
    def exchange(self, group: Group, ticket: int, bound: asyncio.Timeout) -> Iterator[Exchange]:
        """A block in which a reply is waited for; it ends early, by its bound, where the request is lost."""
        exchange = Exchange(group, ticket, time.monotonic(), bound)
        self._exchanges.add(exchange)
        try:
            yield exchange
        finally:
            self._exchanges.discard(exchange)

    def answered(self, group: Group, asked_at: float, tickets: TicketIssuer) -> None:
        """A question to the workers of a group, asked at that time, has been answered just now."""
        before = asked_at - _MARGIN_S
        if any(exchange.group == group and exchange.sent_at < before for exchange in self._exchanges):
            asyncio.get_running_loop().call_later(_MARGIN_S, self._give_up, group, before, tickets)

    def _give_up(self, group: Group, before: float, tickets: TicketIssuer) -> None:
        older = [each for each in self._exchanges if each.group == group and each.sent_at < before]
        lost = [each for each in older if not (tickets.has_begun(each.ticket) or each.bound.expired())]
        for exchange in lost:
            exchange.is_lost = True
            exchange.bound.reschedule(0.0)
        if lost:
            _log.warning("requests were lost with a worker", workers=group[0], requests=len(lost))
