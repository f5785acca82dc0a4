"""A worker that is overloaded, halted, killed or robbed of its files: callers are told at once, and it comes back."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from inputs import GOOD, MODEL, tensor
from running import RunningGateway
from test_service import details

from promql import alert_rules
from promql_instant import found
from proponent.gateway.rollout.control_client import SOCKET
from proponent.index.bundle import CATALOG, ROWS, SPEC, read_manifest, seal
from proponent.index.store import Store
from proponent.index.tombstones import FORGOTTEN
from proponent.v1 import explanation_pb2 as pb

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
PREDICT = pb.PredictRequest(model=MODEL, encoded_image=GOOD)
EXPLAIN = pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=3)
DEARLY = pb.ExplainRequest(
    model=MODEL,
    encoded_image=GOOD,
    top_k=200,
    diversity=pb.Diversity(
        redundancy=pb.REDUNDANCY_FACILITY_LOCATION, gamma=1.0, candidates=1000, whole_dataset=True
    ),
)
DEADLY = """
import os
import torch
from proponent.models.logistic import LogisticRegression

class Deadly(LogisticRegression):
    def forward(self, inputs):
        if bool((inputs > 100).any()):
            with open(os.environ["DEATHS"], "a") as file:
                file.write("death\\n")
            os._exit(1)
        if bool((inputs < -100).any()):
            torch.empty(1 << 46, dtype=torch.uint8)
        return super().forward(inputs)
"""


@pytest.fixture(scope="module")
def store(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("faults") / "store"
    shutil.copytree(digits / "store", root, ignore=shutil.ignore_patterns(SOCKET))
    return Store(root)


@pytest.fixture(scope="module")
def gateway(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    gateway = RunningGateway(store.root, tmp_path_factory.mktemp("log") / "gateway.log")
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


def outcome(call: Callable[..., object], request: object, timeout: float = 10) -> grpc.StatusCode:
    try:
        call(request, timeout=timeout)
    except grpc.RpcError as error:
        return error.code()
    return OK


def status(gateway: RunningGateway, path: str = "/readyz") -> int:
    reply = gateway.get(path)
    return 0 if reply is None else reply.status_code


def health(gateway: RunningGateway, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(gateway.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)


def test_a_worker_killed_under_heavy_work_is_back_as_soon_as_the_new_one_lives(gateway: RunningGateway) -> None:
    """Nothing that was given up is run by the new worker, and no call is told of a deadline that is not its own.

    Predictions are answered all the while.
    """
    calls = [gateway.rpc.Explain.future(DEARLY, timeout=4) for _ in range(4)]
    time.sleep(0.5)
    gateway.worker().kill()
    killed = time.monotonic()
    seen: Counter[grpc.StatusCode] = Counter()
    while outcome(gateway.rpc.Explain, EXPLAIN, 20) is not OK:
        assert outcome(gateway.rpc.Predict, PREDICT, 20) is OK
        try:
            gateway.rpc.Explain(EXPLAIN, timeout=20)
        except grpc.RpcError as error:
            seen[error.code()] += 1
            assert any(d.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for d in rpc_status.from_call(error).details)
        assert time.monotonic() - killed < 60
        time.sleep(0.2)
    assert seen.keys() <= {UNAVAILABLE}
    gateway.wait_ready()
    assert all(call.code() is not OK for call in calls)


def test_a_dear_selection_stops_at_its_deadline_and_others_go_on(gateway: RunningGateway) -> None:
    calls = [gateway.rpc.Explain.future(DEARLY, timeout=2) for _ in range(8)]
    for call in calls:
        call.exception()
    given_up = time.monotonic()
    assert outcome(gateway.rpc.Predict, PREDICT, 30) is OK
    assert time.monotonic() - given_up < 3
    assert status(gateway) == 200


def test_calls_that_give_up_at_once_leave_the_worker_to_others(gateway: RunningGateway) -> None:
    """They hold their slots until the worker has dropped them, and cost no other call its place on the connection."""
    flip = pb.FindFlipSetRequest(query=pb.ExplainRequest(model=MODEL, encoded_image=GOOD))
    calls = [gateway.rpc.FindFlipSet.future(flip, timeout=0.03) for _ in range(300)]
    codes = Counter(call.code() for call in calls)
    assert UNAVAILABLE not in codes
    started = time.monotonic()
    assert outcome(gateway.rpc.Predict, PREDICT, 60) is OK
    assert time.monotonic() - started < 5, codes
    gateway.wait_for(lambda: 'in_flight{method="FindFlipSet"} 0.0' in gateway.http.get("/metrics").text, 10)


@pytest.mark.parametrize("explains", [True, False], ids=["explains", "predicts"])
def test_a_halted_worker_is_not_ready_and_comes_back(gateway: RunningGateway, explains: bool) -> None:
    """What it does not do is answered all the while."""
    calls: list[Any] = [(gateway.rpc.Explain, EXPLAIN), (gateway.rpc.Predict, PREDICT)]
    (call, request), other = calls if explains else reversed(calls)
    worker, lane = gateway.worker(explains=explains), "explanations" if explains else "predictions"
    assert lanes_of_the_alert(gateway) == []
    worker.suspend()
    try:
        gateway.wait_for(lambda: status(gateway) == 503, 25)
        gateway.wait_for(lambda: lanes_of_the_alert(gateway) == [(MODEL, lane)], 10)
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=20)
        assert caught.value.code() is UNAVAILABLE and details(caught.value)[0] == "WORKER_UNRESPONSIVE"
        assert time.monotonic() - started < 2
        assert outcome(*other) is OK
        assert health(gateway, f"proponent.v1.ExplanationService/{MODEL}") == 2
    finally:
        worker.resume()
    gateway.wait_for(lambda: status(gateway) == 200, 15)
    assert outcome(call, request) is OK
    gateway.wait_for(lambda: lanes_of_the_alert(gateway) == [], 10)


def lanes_of_the_alert(gateway: RunningGateway) -> list[tuple[str, str]]:
    """Model and lane of each series for which the rule ProponentLaneNotReady holds now."""
    expression = alert_rules()["ProponentLaneNotReady"]["expr"]
    return [(each["model"], each["lane"]) for each in found(expression, gateway.http.get("/metrics").text)]


@pytest.mark.parametrize("name", [ROWS, CATALOG, FORGOTTEN])
def test_damage_is_noticed_told_and_gone_once_repaired(gateway: RunningGateway, store: Store, name: str) -> None:
    path = store.directory(MODEL) / name if name == FORGOTTEN else store.current(MODEL) / name
    content = path.read_bytes() if path.exists() else b""
    _overwrite(path, bytes(len(content)) if content else b"{")
    try:
        gateway.wait_for(lambda: status(gateway) == 503, 15)
        with pytest.raises(grpc.RpcError) as caught:
            gateway.rpc.Explain(EXPLAIN, timeout=10)
        assert (caught.value.code(), details(caught.value)[0]) == (UNAVAILABLE, "BUNDLE_CORRUPT")
    finally:
        _overwrite(path, content) if content else path.unlink()
    gateway.wait_for(lambda: status(gateway) == 200, 40)
    assert len(gateway.rpc.Explain(EXPLAIN, timeout=10).results[0].proponents) == 3


def _overwrite(path: Path, content: bytes) -> None:
    """In place, as a disk or a careless copy would."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(content)


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where dying workers say so."""
    return tmp_path_factory.mktemp("deadly")


@pytest.fixture(scope="module")
def deadly(store: Store, deaths: Path) -> Iterator[RunningGateway]:
    """Serves a model that kills its process at one input, and wants all memory and more at another."""
    (deaths / "deadly.py").write_text(DEADLY)
    shutil.copytree(store.root, deaths / "store", ignore=shutil.ignore_patterns(SOCKET))
    other = Store(deaths / "store")
    copied = other.directory(MODEL) / "copy"
    shutil.copytree(other.current(MODEL), copied)
    values = yaml.safe_load((copied / SPEC).read_text())
    values["model"]["factory"] = "deadly:Deadly"
    (copied / SPEC).write_text(yaml.safe_dump(values))
    manifest = replace(read_manifest(copied), created="2026-01-01T00:00:00+00:00 deadly")
    other.set_current(MODEL, seal(copied, manifest, other.bundles(MODEL)).name)
    environment = {"PYTHONPATH": str(deaths), "DEATHS": str(deaths / "deaths")}
    gateway = RunningGateway(other.root, deaths / "gateway.log", **environment)
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


def test_memory_that_runs_out_is_told_and_costs_nobody_else_an_answer(deadly: RunningGateway) -> None:
    """By an allocation that fails; where the system ends a worker instead, that is a kill like any."""
    greedy = tensor(np.full((1, 8, 8), -200.0))
    requests: list[tuple[Any, Any, Any]] = [
        (deadly.rpc.Predict, pb.PredictRequest(model=MODEL, tensor=greedy), PREDICT),
        (deadly.rpc.Explain, pb.ExplainRequest(model=MODEL, tensor=greedy), EXPLAIN),
    ]
    workers = {process.pid for process in deadly.descendants()}
    for call, bad, good in requests:
        calls = [call.future(each, timeout=20) for each in (bad, good, good)]
        with pytest.raises(grpc.RpcError) as caught:
            calls[0].result()
        assert (caught.value.code(), details(caught.value)[0]) == (UNAVAILABLE, "OUT_OF_MEMORY")
        assert [each.result().prediction.class_id for each in calls[1:]] == [3, 3]
    assert {process.pid for process in deadly.descendants()} == workers and status(deadly) == 200


def test_a_request_that_killed_its_worker_is_not_tried_again(deadly: RunningGateway, deaths: Path) -> None:
    """Its batch mates are told to retry; those behind it are answered by the new worker, or came too early for it."""
    killer = pb.PredictRequest(model=MODEL, tensor=tensor(np.full((1, 8, 8), 200.0)))
    start = threading.Barrier(41)

    def call(request: pb.PredictRequest) -> tuple[grpc.StatusCode, str]:
        start.wait()
        try:
            deadly.rpc.Predict(request, timeout=60)
        except grpc.RpcError as error:
            return error.code(), details(error)[0]
        return OK, ""

    with ThreadPoolExecutor(41) as pool:
        found = list(pool.map(call, [killer] + [PREDICT] * 40))
    assert found[0] == (UNAVAILABLE, "WORKER_DIED")
    counts, reasons = Counter(found[1:]), ("WORKER_DIED", "WORKER_RESTARTING")
    assert counts[OK, ""] >= 10 and counts.keys() <= {(OK, ""), *((UNAVAILABLE, why) for why in reasons)}, counts
    deadly.wait_for(lambda: outcome(deadly.rpc.Predict, PREDICT) is OK)
    assert (deaths / "deaths").read_text().splitlines() == ["death"]
