"""Starts that must not become ready, and ends that must leave nothing: each says why, none hangs."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inputs import GOOD
from running import RunningGateway
from test_service import details

from proponent.gateway.rollout.control_client import request
from proponent.index.bundle import SPEC, read_manifest, seal
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb

pytestmark = pytest.mark.e2e
DAMAGED = {
    "altered": "rows.faiss",
    "truncated": "factors.safetensors",
    "unlisted": "manifest.json",
    "weightless": "model.safetensors",
    "forgotten": "catalog.sqlite",
}


UNREADABLE = {"other": "rows.faiss", "digits": "manifest.json"}


def _copy(digits: Path, store: Path, name: str) -> Path:
    shutil.copytree(digits / "store" / "digits", store / name)
    return next((store / name / "bundles").iterdir())


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "weightless":
        path.unlink()
        return
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: len(content) // 2] if how in ("truncated", "forgotten") else content)


@pytest.fixture(scope="module")
def damaged(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Serves a sound model beside models whose bundles are damaged, each in another way."""
    root = tmp_path_factory.mktemp("damaged")
    _copy(digits, root / "store", "sound")
    for name, file in DAMAGED.items():
        _damage(_copy(digits, root / "store", name) / file, name)
    gateway = RunningGateway(root / "store", root / "gateway.log")
    try:
        gateway.wait_for(lambda: gateway.log.read_text().count("BUNDLE_CORRUPT") >= 3)
        gateway.wait_for(lambda: 'event="model ready" model=sound' in gateway.log.read_text())
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_bundle_answers_with_its_damage(damaged: RunningGateway, name: str) -> None:
    request = pb.ExplainRequest(model=name, encoded_image=GOOD)
    damaged.wait_for(lambda: _reason(damaged, request) == "BUNDLE_CORRUPT", 60)
    with pytest.raises(grpc.RpcError) as caught:
        damaged.rpc.Explain(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert DAMAGED[name] in caught.value.details()
    reply = damaged.http.post(f"/v1/models/{name}:predict", content=GOOD, headers={"content-type": "image/png"})
    assert (reply.status_code, reply.json()["reason"]) == (503, "BUNDLE_CORRUPT")


def test_a_sound_model_answers_beside_damaged_ones(damaged: RunningGateway) -> None:
    assert damaged.rpc.Predict(pb.PredictRequest(model="sound", encoded_image=GOOD)).prediction.class_id == 3
    damaged.wait_ready()
    health, states = health_pb2_grpc.HealthStub(damaged.channel), health_pb2.HealthCheckResponse
    for name in ("", "proponent.v1.ExplanationService", "proponent.v1.ExplanationService/sound"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == states.SERVING
    assert damaged.http.get("/v1/models/sound:ready").status_code == 200
    for name in DAMAGED:
        asked = health_pb2.HealthCheckRequest(service=f"proponent.v1.ExplanationService/{name}")
        assert health.Check(asked).status == states.NOT_SERVING
        assert damaged.http.get(f"/v1/models/{name}:ready").status_code == 503


def test_disclosure_is_off_by_default(damaged: RunningGateway) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        damaged.rpc.GetExample(pb.GetExampleRequest(model="sound", example_id="digits-0001"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    for view, reason in ((pb.VIEW_THUMBNAIL, "THUMBNAILS_DISABLED"), (pb.VIEW_METADATA, "EXAMPLES_DISABLED")):
        asked = pb.ExplainRequest(model="sound", encoded_image=GOOD, view=view)
        assert _reason(damaged, asked) == reason


def test_other_weights_are_refused_and_a_killed_gateway_leaves_nothing(digits: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    bundle = next((digits / "store" / "digits" / "bundles").iterdir())
    content = bytearray((bundle / "model.safetensors").read_bytes())
    content[-1] ^= 0x01
    weights.write_bytes(content)
    gateway = RunningGateway(digits / "store", tmp_path / "gateway.log", "--weights", str(weights))
    try:
        request = pb.ExplainRequest(model="digits", encoded_image=GOOD)
        gateway.wait_for(lambda: _reason(gateway, request) == "INDEX_MODEL_MISMATCH")
        with pytest.raises(grpc.RpcError) as caught:
            gateway.rpc.Explain(request, timeout=10)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert gateway.http.get("/readyz").json()["reason"] == "INDEX_MODEL_MISMATCH"
        assert "\nready " not in gateway.log.read_text()
        gateway.kill()
    finally:
        gateway.close()


def test_nothing_to_serve_ends_at_once(digits: Path, tmp_path: Path) -> None:
    for options in ((), ("--weights", str(tmp_path / "none.safetensors"))):
        store = digits / "store" if options else tmp_path / "nowhere"
        gateway = RunningGateway(store, tmp_path / f"log{len(options)}", *options)
        try:
            assert gateway.process.wait(timeout=30) != 0
            assert "not found" in gateway.log.read_text()
        finally:
            gateway.close()


def test_a_second_interrupt_shortens_the_drain(digits: Path, tmp_path: Path) -> None:
    """The worker is halted, so that a call in flight would hold the drain for its whole time."""
    gateway = RunningGateway(digits / "store", tmp_path / "gateway.log")
    try:
        gateway.wait_ready()
        family = gateway.descendants()
        gateway.worker(explains=False).suspend()
        call = gateway.rpc.Predict.future(pb.PredictRequest(model="digits", encoded_image=GOOD), timeout=30)
        gateway.wait_for(lambda: _in_flight(gateway) == 1, 10)
        gateway.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            gateway.process.wait(timeout=3)
        assert not call.done()
        gateway.process.send_signal(signal.SIGINT)
        assert call.exception(timeout=5).code() is not grpc.StatusCode.OK
        assert gateway.process.wait(timeout=14) == 0
        gateway.assert_nothing_left(family)
    finally:
        gateway.close()


def _in_flight(gateway: RunningGateway) -> int:
    return int('proponent_requests_in_flight{method="Predict"} 1.0' in gateway.http.get("/metrics").text)


def _reason(gateway: RunningGateway, request: object, method: str = "Explain") -> str:
    try:
        getattr(gateway.rpc, method)(request, timeout=10)
    except grpc.RpcError as error:
        return details(error)[0] if error.trailing_metadata() else str(error.code())
    return ""


@pytest.mark.slow
def test_what_loading_raises_is_told_and_a_mended_bundle_is_taken_up(digits: Path, tmp_path: Path) -> None:
    """No restart and no publish: once by the worker, which cannot load a file, once by the gateway itself."""
    paths = {name: _copy(digits, tmp_path / "store", name) / file for name, file in UNREADABLE.items()}
    for path in paths.values():
        path.rename(path.with_name("aside"))
        path.mkdir()
    gateway = RunningGateway(tmp_path / "store", tmp_path / "gateway.log")
    try:
        for name, path in paths.items():
            request = pb.PredictRequest(model=name, encoded_image=GOOD)
            gateway.wait_for(lambda: _reason(gateway, request, "Predict") == "BUNDLE_CORRUPT", 60)  # noqa: B023
            path.rmdir()
            path.with_name("aside").rename(path)
            gateway.wait_for(lambda: _reason(gateway, request, "Predict") == "", 90)  # noqa: B023
        gateway.wait_ready()
        gateway.stop()
    finally:
        gateway.close()


@pytest.mark.slow
def test_a_worker_that_dies_while_it_starts_is_told_until_a_good_bundle_is_published(
    digits: Path, tmp_path: Path
) -> None:
    """Then the gateway is killed: all that it started goes with it, and all ports are free again."""
    good = _copy(digits, tmp_path / "store", "digits")
    store, copied = Store(tmp_path / "store"), good.with_name("copied")
    shutil.copytree(good, copied)
    values = yaml.safe_load((copied / SPEC).read_text())
    values["model"] = {"factory": "os:abort"}
    (copied / SPEC).write_text(yaml.safe_dump(values))
    manifest = replace(read_manifest(copied), created="2026-01-01T00:00:00+00:00 deadly")
    store.set_current("digits", seal(copied, manifest, store.bundles("digits")).name)
    gateway = RunningGateway(store.root, tmp_path / "gateway.log")
    try:
        gateway.wait_for(lambda: gateway.log.read_text().count("died while it started") >= 2)
        for method in ("Predict", "Explain"):
            asked = getattr(pb, f"{method}Request")(model="digits", encoded_image=GOOD)
            assert _reason(gateway, asked, method) == "WORKER_STARTING"
        assert gateway.http.get("/readyz").json()["reason"] == "WORKER_STARTING"
        request(store.root, {"command": "publish", "model": "digits", "digest": good.name})
        gateway.wait_ready()
        assert _reason(gateway, pb.ExplainRequest(model="digits", encoded_image=GOOD)) == ""
        ports = _listening(gateway)
        assert len(ports) >= 6  # two of the gateway, four of TorchServe
        gateway.kill()
        for port in ports:
            with socket.create_server(("127.0.0.1", port)):
                pass
    finally:
        gateway.close()


def _listening(gateway: RunningGateway) -> set[int]:
    ports = set()
    for process in (psutil.Process(gateway.process.pid), *gateway.descendants()):
        with contextlib.suppress(psutil.NoSuchProcess):  # workers of the deadly bundle may still be ending
            found = process.net_connections("tcp")
            ports |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    return ports
