"""What a service stands on gives way: its store, its disk, its descriptors, its clock, its callers. It goes on."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from asking import EXPLAIN, OK, PREDICT, ask, ready, said, serving
from inputs import GOOD, MODEL
from running import RunningGateway
from small_disk import SmallDisk, small_disk

from proponent.errors import StorageError
from proponent.gateway.rollout.control_client import SOCKET, request
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
IMAGE = {"content": GOOD, "headers": {"content-type": "image/png"}}
TIMEOUT_S = 8
# Moves the wall clock of every Python process that is started with it, as far as a file says.
CLOCK = """
import os, time
_real, _real_ns = time.time, time.time_ns
def _moved():
    try:
        with open(os.environ["CLOCK_MOVED_BY"]) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0
time.time = lambda: _real() + _moved()
time.time_ns = lambda: _real_ns() + int(_moved() * 1e9)
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("disk") / "full", 64) as disk:
        yield disk


@pytest.fixture(scope="module")
def store(digits: Path, disk: SmallDisk) -> Store:
    shutil.copytree(digits / "store", disk.root / "store", ignore=shutil.ignore_patterns(SOCKET))
    return Store(disk.root / "store")


@pytest.fixture(scope="module")
def gateway(store: Store, disk: SmallDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Everything that it writes is on the small disk."""
    clock = tmp_path_factory.mktemp("clock")
    (clock / "sitecustomize.py").write_text(CLOCK)
    options = ["--audit-log", str(disk.root / "audit.jsonl"), "--max-streams", "8"]
    options += ["--idle-timeout", "1", "--transfer-timeout", "3", "--request-timeout", str(TIMEOUT_S)]
    environment = {
        "PYTHONPATH": str(clock),
        "CLOCK_MOVED_BY": str(clock / "moved"),
        "TMPDIR": str(_made(disk.root / "tmp")),
    }
    gateway = RunningGateway(store.root, disk.root / "gateway.log", *options, **environment)
    gateway.clock = clock / "moved"  # type: ignore[attr-defined]
    try:
        gateway.wait_ready()
        yield gateway
        if gateway.process.poll() is None:
            gateway.stop()
    finally:
        gateway.close()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def both(gateway: RunningGateway) -> list[str]:
    """What callers of both lanes are told."""
    return [ask(gateway, explains=explains, timeout_s=10) for explains in (True, False)]


def wait_until(gateway: RunningGateway, expected: list[str], seconds: float) -> None:
    gateway.wait_for(lambda: both(gateway) == expected, seconds)


@contextmanager
def store_renamed(store: Store) -> Iterator[None]:
    """As a mount that went away."""
    away = store.root.rename(store.root.with_name("away"))
    try:
        yield
    finally:
        away.rename(store.root)


@contextmanager
def bundle_removed(store: Store) -> Iterator[None]:
    """As by a careless hand; it comes back from a copy."""
    bundle = store.current(MODEL)
    shutil.copytree(bundle, bundle.with_name("copy"))
    shutil.rmtree(bundle)
    try:
        yield
    finally:
        bundle.with_name("copy").rename(bundle)


@pytest.mark.parametrize("gone", [store_renamed, bundle_removed])
def test_a_bundle_that_is_gone_takes_explanations_with_it_until_it_is_back(
    gateway: RunningGateway, store: Store, gone: Callable[[Store], object]
) -> None:
    """Predictions need nothing of it, until their worker is started anew."""
    with gone(store):  # type: ignore[attr-defined]
        gateway.wait_for(lambda: not ready(gateway) and not serving(gateway), 20)
        assert ask(gateway, explains=True) == "BUNDLE_CORRUPT"
        if gone is bundle_removed:
            gateway.worker(explains=False).kill()
            gateway.wait_for(lambda: ask(gateway, explains=False) == "BUNDLE_CORRUPT", 40)
    gateway.wait_for(lambda: ready(gateway) and serving(gateway), 60)
    assert both(gateway) == [OK, OK]


def test_a_full_disk_stops_what_must_be_written_and_nothing_else(
    gateway: RunningGateway, disk: SmallDisk, store: Store
) -> None:
    """What is disclosed must be in the audit log; predictions, health and a worker's restart need no disk."""
    digest = store.current(MODEL).name
    disk.fill()
    try:
        gateway.wait_for(lambda: ask(gateway, explains=True) == "AUDIT_LOG_FAILED", 30)
        disk.fill()
        assert both(gateway) == ["AUDIT_LOG_FAILED", OK] and ready(gateway)
        assert gateway.http.post(f"/v1/models/{MODEL}:predict", **IMAGE).status_code == 200  # type: ignore[arg-type]
        with pytest.raises(StorageError):
            request(store.root, {"command": "publish", "model": MODEL, "digest": digest})
        gateway.worker(explains=False).kill()
        gateway.wait_for(lambda: not serving(gateway), 15)
        gateway.wait_for(lambda: ready(gateway) and ask(gateway, explains=False) == OK, 60)
    finally:
        disk.free()
    wait_until(gateway, [OK, OK], 20)
    lines = (disk.root / "audit.jsonl").read_text().splitlines()
    assert all(json.loads(line)["method"] == "Explain" for line in lines)
    assert store.current(MODEL).name == digest


def test_a_gateway_that_cannot_write_its_own_files_says_so_and_ends(digits: Path, tmp_path: Path) -> None:
    """A quota on files stands for a disk that fills while the gateway starts; a full one is passed over for /tmp."""
    starting = RunningGateway(digits / "store", tmp_path / "gateway.log")
    try:
        psutil.Process(starting.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        assert starting.process.wait(timeout=60) == StorageError.exit_code
        words = starting.log.read_text()
        assert "File too large" in words and "Traceback" not in words
        assert not list(starting.temporary.iterdir())
    finally:
        starting.close()


def test_exhausted_descriptors_pass_with_those_who_took_them(gateway: RunningGateway) -> None:
    own = psutil.Process(gateway.process.pid)
    limits = own.rlimit(psutil.RLIMIT_NOFILE)
    addresses = [gateway.http_url.removeprefix("http://"), gateway.grpc_address]
    own.rlimit(psutil.RLIMIT_NOFILE, (own.num_fds() + 20, limits[1]))
    try:
        with ExitStack() as idle:
            for address in addresses * 60:
                host, _, port = address.partition(":")
                idle.enter_context(socket.create_connection((host, int(port))))
            time.sleep(1)
            busy = own.cpu_times()
            told = Counter(both(gateway) + both(gateway))
            assert set(told) <= {OK, "AUDIT_LOG_FAILED", "WORKER_RESTARTING", "BUNDLE_CORRUPT"}, told
            assert own.cpu_times().user - busy.user < 2
    finally:
        own.rlimit(psutil.RLIMIT_NOFILE, limits)
    gateway.wait_for(lambda: ready(gateway) and serving(gateway), 60)
    assert both(gateway) == [OK, OK]


def _http(gateway: RunningGateway, begun: bytes) -> socket.socket:
    host, _, port = gateway.http_url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(begun)
    return connection


def test_slow_and_half_open_callers_cost_the_others_nothing_and_are_left(gateway: RunningGateway) -> None:
    """Heads and bodies that stop, replies that nobody reads, connections that say nothing, streams left open."""
    head = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 9999\r\n"
    )
    unread = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 400
    host, _, port = gateway.grpc_address.partition(":")
    with ExitStack() as stack:
        slow = [_http(gateway, head.encode()) for _ in range(20)]
        slow += [_http(gateway, head.encode() + b"\r\n\x89PNG") for _ in range(20)]
        slow += [_http(gateway, unread) for _ in range(5)]
        slow += [socket.create_connection((host, int(port))) for _ in range(20)]
        for connection in slow:
            stack.enter_context(connection)
        channel = stack.enter_context(grpc.insecure_channel(gateway.grpc_address))
        half_open = [ExplanationServiceStub(channel).StreamExplain(_nothing()) for _ in range(8)]
        assert both(gateway) == [OK, OK]
        with httpx.Client(base_url=gateway.http_url, timeout=5, trust_env=False) as client:
            assert client.post(f"/v1/models/{MODEL}:predict", **IMAGE).status_code == 200  # type: ignore[arg-type]
        for connection in slow:
            connection.settimeout(15)
            _read_to_end(connection)
        for stream in half_open:
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gateway.wait_for(lambda: "proponent_http_connections 1.0" in gateway.http.get("/metrics").text, 10)
    assert both(gateway) == [OK, OK] and ready(gateway)


def _nothing() -> Iterator[pb.StreamExplainRequest]:
    time.sleep(60)
    yield from ()


def _read_to_end(connection: socket.socket) -> None:
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass


def test_a_clock_that_jumps_moves_no_deadline(gateway: RunningGateway) -> None:
    """By a day forth and back, in every Python process: calls in flight end when they would have.

    The callers set no deadline of their own: gRPC's core, whose clock cannot be moved like Python's, would count it.
    """
    family, moved = set(gateway.descendants()), gateway.clock  # type: ignore[attr-defined]
    worker = gateway.worker(explains=False)
    worker.suspend()
    try:
        started = time.monotonic()
        call = gateway.rpc.Predict.future(PREDICT)
        for seconds in (86_400, -86_400):
            time.sleep(1)
            moved.write_text(str(seconds))
            assert gateway.http.post(f"/v1/models/{MODEL}:explain", **IMAGE).status_code == 200  # type: ignore[arg-type]
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert TIMEOUT_S - 0.2 < time.monotonic() - started < TIMEOUT_S + 3
    finally:
        worker.resume()
    for seconds in (86_400, 0):
        gateway.wait_for(lambda: gateway.rpc.Predict(PREDICT).prediction.class_id == 3, 10)
        assert ready(gateway) and serving(gateway)
        moved.write_text(str(seconds))
    assert both(gateway) == [OK, OK]
    assert set(gateway.descendants()) == family


def test_sigterm_under_load_answers_what_is_in_flight(gateway: RunningGateway) -> None:
    """Those who come later are refused with a reason; the exit is clean, and nothing is left."""
    family, stop = gateway.descendants(), time.monotonic() + 10

    def call(number: int) -> Counter[str]:
        told: Counter[str] = Counter()
        with grpc.insecure_channel(gateway.grpc_address) as channel:
            stub = ExplanationServiceStub(channel)
            while time.monotonic() < stop and set(told) <= {OK}:
                method, asked = (stub.Explain, EXPLAIN) if number % 2 else (stub.Predict, PREDICT)
                told[said(method.future(asked, timeout=20))] += 1
        return told

    def post(_: int) -> Counter[str]:
        told: Counter[str] = Counter()
        with httpx.Client(base_url=gateway.http_url, timeout=20, trust_env=False) as client:
            while time.monotonic() < stop and set(told) <= {OK}:
                reply = client.post(f"/v1/models/{MODEL}:predict", **IMAGE)  # type: ignore[arg-type]
                told[OK if reply.status_code == 200 else reply.json()["reason"]] += 1
        return told

    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(call, number) for number in range(8)] + [pool.submit(post, n) for n in range(4)]
        time.sleep(2)
        gateway.process.send_signal(signal.SIGTERM)
        told = sum((each.result() for each in calls), Counter[str]())
    assert gateway.process.wait(timeout=30) == 0
    assert told["DRAINING"] == 12 and set(told) == {OK, "DRAINING"} and told[OK] > 30, told
    gateway.assert_nothing_left(family)
    with pytest.raises(OSError):
        _http(gateway, b"")
