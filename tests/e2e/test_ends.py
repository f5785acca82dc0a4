"""How gateways begin and end beside balancers, beside each other and under violence; real processes throughout."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inputs import GOOD, MODEL
from running import RunningGateway, survivors
from test_membership import put

from proponent.gateway.hosting.private import PREFIX
from proponent.gateway.rollout.control_client import SOCKET, request
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

pytestmark = pytest.mark.e2e
SERVICE = "proponent.v1.ExplanationService"
Start = Callable[..., RunningGateway]


@pytest.fixture
def store(digits: Path, tmp_path: Path) -> Path:
    """A store of these gateways alone, whose commands none of other tests takes."""
    return Path(shutil.copytree(digits / "store", tmp_path / "store", ignore=shutil.ignore_patterns(SOCKET)))


@pytest.fixture
def start(store: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts gateways on one store; none outlives the test."""
    started: list[RunningGateway] = []

    def run(*options: str, **environment: str) -> RunningGateway:
        log = tmp_path / f"gateway{len(started)}.log"
        started.append(RunningGateway(store, log, *options, **environment))
        return started[-1]

    try:
        yield run
    finally:
        for gateway in started:
            gateway.close()


@contextmanager
def new_connections(gateway: RunningGateway) -> Iterator[tuple[httpx.Client, grpc.Channel]]:
    with (
        httpx.Client(base_url=gateway.http_url, timeout=30, trust_env=False) as http,
        grpc.insecure_channel(gateway.grpc_address) as channel,
    ):
        yield http, channel


def private_directory(gateway: RunningGateway) -> Path:
    [root] = gateway.temporary.glob(f"{PREFIX}*")
    return root


def test_a_balancer_sees_the_end_coming_and_workers_are_warm(start: Start) -> None:
    gateway = start("--drain-delay", "6")
    gateway.wait_ready()
    worker_log = private_directory(gateway) / "worker.log"
    assert worker_log.read_text().count("warmed up") == 2
    gateway.worker().kill()
    gateway.wait_for(lambda: worker_log.read_text().count("warmed up") == 3)
    gateway.wait_ready()
    family = gateway.descendants()
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_for(lambda: (reply := gateway.get("/readyz")) is not None and reply.status_code == 503, 3)
    with new_connections(gateway) as (http, channel):
        for path in ("/readyz", f"/v1/models/{MODEL}:ready"):
            assert http.get(path).json()["reason"] == "DRAINING"
        for name in ("", SERVICE, f"{SERVICE}/{MODEL}"):
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        asked = pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=1)
        assert ExplanationServiceStub(channel).Explain(asked, timeout=30).prediction.class_id == 3
        image = {"content": GOOD, "headers": {"content-type": "image/png"}}
        assert http.post(f"/v1/models/{MODEL}:predict", **image).status_code == 200  # type: ignore[arg-type]
    assert gateway.process.wait(timeout=60) == 0
    gateway.assert_nothing_left(family)


def test_killed_together_with_its_watchdog_it_leaves_only_files_which_the_next_one_removes(start: Start) -> None:
    gateway = start()
    gateway.wait_ready()
    family = gateway.descendants()
    [watchdog] = [process for process in family if any("watchdog.py" in word for word in process.cmdline())]
    left = private_directory(gateway)
    watchdog.suspend()
    gateway.process.kill()
    gateway.process.wait()
    watchdog.kill()
    assert len(family) >= 3 and not survivors(family)
    assert left.is_dir()
    successor = start(TMPDIR=str(gateway.temporary))
    successor.wait_for(lambda: not left.exists(), 30)
    successor.wait_ready()
    successor.stop()
    assert not list(gateway.temporary.iterdir())


def test_the_second_gateway_of_a_store_succeeds_the_first(start: Start, store: Path) -> None:
    def commander() -> int | None:
        reply = request(store, {"command": "status"})
        return None if reply is None else int(reply["pid"])

    first = start()
    first.wait_for(lambda: commander() == first.process.pid)
    second = start()
    second.wait_for(lambda: "another gateway serves this store" in second.log.read_text())
    second.wait_ready()
    assert commander() == first.process.pid
    first.stop()
    second.wait_for(lambda: commander() == second.process.pid, 10)
    second.stop()
    assert commander() is None


def test_its_end_while_a_model_is_added_is_as_clean_as_any_other(start: Start, store: Path) -> None:
    """The command is told that the gateway is gone; no worker, half started, outlives it."""
    put(Store(store), "other")
    gateway = start("--model", MODEL, "--worker-host", "processes")
    gateway.wait_ready()
    command = [sys.executable, "-m", "proponent.cli", "load", "other", "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as loading:
        gateway.wait_for(lambda: len(gateway.workers()) == 4, 30)
        assert gateway.http.get("/v1/models").json()["ready"] == {MODEL: True, "other": False}
        gateway.stop()
        _, told = loading.communicate(timeout=30)
    assert loading.returncode != 0 and "the server is stopping" in told and "Traceback" not in told
    assert "Traceback" not in gateway.log.read_text()
