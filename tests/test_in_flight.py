"""A request that TorchServe has lost is given up once later ones are answered, and no other one is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from proponent.bounds.liveness import TicketIssuer, TicketTable
from proponent.gateway.hosting import in_flight
from proponent.gateway.hosting.exchange import Exchange
from proponent.gateway.hosting.in_flight import InFlight


async def outcome(known: InFlight, name: str, ticket: int, timeout_s: float = 2.0) -> str:
    reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    exchange = Exchange((name, "1.0"), ticket, reply, timeout_s, 0.0)
    known.add(exchange)
    await asyncio.wait((reply,))
    known.discard(exchange)
    assert exchange.is_lost or isinstance(exchange.outcome.exception(), TimeoutError)
    return "lost" if exchange.is_lost else "late"


def test_what_no_worker_has_begun_with_is_lost_once_a_later_question_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "_MARGIN_S", 0.1)
    issuer = TicketIssuer.create(tmp_path / "liveness", 8)
    table = TicketTable.open(tmp_path / "liveness")

    async def run() -> None:
        known, (lost, begun, elsewhere, later) = InFlight(), [issuer.issue() for _ in range(4)]
        table.begin(begun)
        waiting = [
            asyncio.create_task(outcome(known, name, ticket))
            for name, ticket in (("a", lost), ("a", begun), ("b", elsewhere), ("a", 0))
        ]
        await asyncio.sleep(0.15)
        asked_at = time.monotonic()
        waiting.append(asyncio.create_task(outcome(known, "a", later)))
        await asyncio.sleep(0.05)
        known.answered(("a", "1.0"), asked_at, issuer)
        assert not any(task.done() for task in waiting)
        await asyncio.sleep(0.3)
        assert [task.done() for task in waiting] == [True, False, False, False, False]
        assert await asyncio.gather(*waiting) == ["lost", "late", "late", "late", "late"]

    asyncio.run(run())


def test_one_that_a_worker_takes_up_within_the_margin_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "_MARGIN_S", 0.1)
    issuer = TicketIssuer.create(tmp_path / "liveness", 8)
    table = TicketTable.open(tmp_path / "liveness")

    async def run() -> None:
        known, ticket = InFlight(), issuer.issue()
        waiting = asyncio.create_task(outcome(known, "a", ticket, 0.6))
        await asyncio.sleep(0.15)
        known.answered(("a", "1.0"), time.monotonic(), issuer)
        table.begin(ticket)
        assert await waiting == "late"

    asyncio.run(run())
