"""A worker or TorchServe dies or hangs: every call is answered or refused with a reason, and all comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import OK, ask, begin, ready, said, serving
from footprint import Footprint, assert_no_more, footprint
from running import RunningGateway

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
OPTIONS = ("--worker-timeout", "6")
LANES = pytest.mark.parametrize("explains", [True, False], ids=["explains", "predicts"])


@pytest.fixture(scope="module")
def gateway(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    gateway = RunningGateway(digits / "store", tmp_path_factory.mktemp("lost") / "gateway.log", *OPTIONS)
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def before(gateway: RunningGateway) -> Footprint:
    assert [ask(gateway, explains=explains) for explains in (True, False)] == [OK, OK]
    return footprint(gateway)


def assert_as_before(gateway: RunningGateway, before: Footprint) -> None:
    gateway.wait_for(lambda: ready(gateway) and serving(gateway), 90)
    assert [ask(gateway, explains=explains) for explains in (True, False)] == [OK, OK]
    for method in ("Predict", "Explain"):
        assert f'proponent_requests_in_flight{{method="{method}"}} 0.0' in gateway.http.get("/metrics").text
    assert_no_more(gateway, before, spare=8)


@LANES
@pytest.mark.parametrize("waited_s", [0.1, 1.0], ids=["in the gateway", "in TorchServe"])
def test_a_call_at_a_worker_that_dies_is_told_and_those_behind_it_are_answered(
    gateway: RunningGateway, before: Footprint, explains: bool, waited_s: float
) -> None:
    """Wherever they wait for it; or they came too early for the next worker, and are told to retry."""
    worker = gateway.worker(explains=explains)
    worker.suspend()
    calls = [begin(gateway, explains=explains) for _ in range(3)]
    time.sleep(waited_s)
    worker.kill()
    gateway.wait_for(lambda: not ready(gateway), 25)
    told = [said(call) for call in calls]  # which of them came first is the threads' doing
    assert "WORKER_DIED" in told and set(told) <= {OK, "WORKER_DIED"}
    assert_as_before(gateway, before)


@LANES
def test_a_worker_that_hangs_for_good_is_replaced(gateway: RunningGateway, before: Footprint, explains: bool) -> None:
    worker = gateway.worker(explains=explains)
    worker.suspend()
    call = begin(gateway, explains=explains)
    gateway.wait_for(lambda: not ready(gateway) and not serving(gateway), 25)
    assert ask(gateway, explains=not explains) == OK
    assert said(call) == "WORKER_DIED"
    assert_as_before(gateway, before)
    assert not worker.is_running()


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hanging"])
def test_all_calls_are_told_when_torchserve_is_gone(gateway: RunningGateway, before: Footprint, hangs: bool) -> None:
    java = gateway.part("ModelServer")
    java.suspend() if hangs else java.kill()
    calls = [begin(gateway, explains=explains) for explains in (True, False)]
    gateway.wait_for(lambda: not ready(gateway) and not serving(gateway), 25)
    spared = {OK} if hangs else set()  # it wakes to be ended, and may answer before it is
    assert {said(call) for call in calls} <= {"WORKER_RESTARTING", "WORKER_STARTING"} | spared
    started = time.monotonic()
    assert ask(gateway, explains=False) in ("WORKER_RESTARTING", "WORKER_STARTING")
    assert time.monotonic() - started < 2
    assert_as_before(gateway, before)
    assert not java.is_running()
