"""The first signal asks for an orderly end, the second for a quick one; only SIGTERM waits for a balancer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from proponent.gateway.signals import StopSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("first", "drains"), [(signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGHUP, False)]
)
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_one_stops_and_two_force_stop(first: signal.Signals, drains: bool, second: signal.Signals) -> None:
    async def run() -> None:
        signals = StopSignals()
        os.kill(os.getpid(), first)
        await asyncio.wait_for(signals.stop.wait(), 5)
        assert signals.drains == drains and not signals.force_stop.is_set()
        os.kill(os.getpid(), second)
        await asyncio.wait_for(signals.force_stop.wait(), 5)
        assert signals.drains == drains

    asyncio.run(run())


def test_nohup_is_honoured() -> None:
    async def run() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals = StopSignals()
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        assert not signals.stop.is_set()

    asyncio.run(run())
