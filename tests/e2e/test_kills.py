"""Workers and TorchServe are killed under load: nothing is lost but what was in flight, and nothing is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from asking import ready, serving
from footprint import assert_no_more, footprint
from load import DEADLINE_S, LATE, Load, answers_of
from recording import Record
from running import RunningGateway

from proponent.index.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]
# What a call may be told that was in flight, and what one that came while there was no worker.
LOST, EARLY = {"WORKER_DIED", "WORKER_RESTARTING"}, {"WORKER_STARTING", "WORKER_RESTARTING"}
TORCHSERVE_EVERY = 5


@pytest.fixture
def gateway(digits: Path, tmp_path: Path) -> Iterator[RunningGateway]:
    gateway = RunningGateway(digits / "store", tmp_path / "gateway.log")
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


def test_kills_under_load_lose_nothing_but_what_was_in_flight(
    gateway: RunningGateway, digits: Path, pytestconfig: pytest.Config, record: Record
) -> None:
    kills: int = pytestconfig.getoption("kills")
    expected = answers_of([Store(digits / "store").current("digits")])
    before, seconds = footprint(gateway), []
    load = Load(gateway.grpc_address, gateway.http_url, expected, {*LOST, *EARLY, LATE})
    with load.running():
        time.sleep(2)
        for number in range(1, kills + 1):
            seconds.append(_kill(gateway, number))
        answered = load.counts.total()
        time.sleep(1)
    record(
        "kills",
        count=kills,
        answers=load.counts.total(),
        refused=dict(load.refused),
        wrong=len(load.wrong),
        seconds=seconds,
    )
    assert not load.wrong, load.wrong[:5]
    assert load.refused["WORKER_DIED"] <= kills * load.in_flight and load.counts.total() > answered > 50
    # On a busy machine a new worker may come after the deadlines of those who wait for it.
    assert load.refused[LATE] <= sum(each > DEADLINE_S for each in seconds) * load.in_flight
    assert_no_more(gateway, before, spare=load.in_flight)  # connections to the workers are kept


def _kill(gateway: RunningGateway, number: int) -> float:
    """Kills a worker, of each lane in turn, or TorchServe; returns the seconds until all is well again."""
    torchserve = number % TORCHSERVE_EVERY == 0
    killed = gateway.part("ModelServer") if torchserve else gateway.worker(explains=bool(number % 2))
    killed.kill()
    started = time.monotonic()
    gateway.wait_for(lambda: not ready(gateway), 20)
    gateway.wait_for(lambda: ready(gateway) and serving(gateway) and _workers(gateway) == 2, 120)
    return round(time.monotonic() - started, 1)


def _workers(gateway: RunningGateway) -> int:
    found = 0
    for process in gateway.descendants():
        with suppress(psutil.NoSuchProcess):
            found += "model_service_worker" in " ".join(process.cmdline())
    return found
