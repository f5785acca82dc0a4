"""The requests that a host has, and which of them it has lost.

A worker's death takes what it had begun with, of which its host says so, and may take what TorchServe was about to
hand to it, of which nothing is said: no answer would ever come. The order tells: requests are taken up as they came,
so once a question is answered, all that came before the question are at workers. What no worker knows of then is
lost.
"""

from __future__ import annotations

import asyncio

import structlog

from proponent.bounds.liveness import TicketIssuer
from proponent.gateway.hosting.exchange import Exchange, Group

_MARGIN_S = 1.0
"""Longest time in which two requests may overtake each other on their ways in, or one that was taken up is under
way to its worker."""

_log = structlog.get_logger("proponent.gateway")


class InFlight(set[Exchange]):
    """What hosts were sent and have not answered."""

    def answered(self, group: Group, asked_at: float, tickets: TicketIssuer) -> None:
        """A question to the workers of a group, asked at that time, has been answered just now."""
        before = asked_at - _MARGIN_S
        if any(exchange.group == group and exchange.sent_at < before for exchange in self):
            asyncio.get_running_loop().call_later(_MARGIN_S, self._give_up, group, before, tickets)

    def _give_up(self, group: Group, before: float, tickets: TicketIssuer) -> None:
        older = [each for each in self if each.group == group and each.sent_at < before]
        lost = [each for each in older if not (tickets.has_begun(each.ticket) or each.reply.done())]
        for exchange in lost:
            exchange.lose()
        if lost:
            _log.warning("requests were lost with a worker", workers=group[0], requests=len(lost))
