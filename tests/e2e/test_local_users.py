"""Nobody on the same machine goes round the gateway: TorchServe answers it alone, and no file gives it away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from inputs import GOOD, MODEL
from running import RunningGateway

from proponent.gateway.rollout.control_client import SOCKET
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.inference_pb2 import PredictionsRequest
from proponent.v1.worker_pb2 import WorkerRequest
from tokens import write_tokens

pytestmark = pytest.mark.e2e
TOKEN = "good-token"
NOBODY = 65534
CREDENTIALS = [{}, {"authorization": "Bearer"}, {"authorization": "Bearer 0123abcd"}, {"authorization": TOKEN}]
GRPC_MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService"
INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
HTTP_CALLS = [
    ("POST", f"/predictions/{MODEL}"),
    ("POST", f"/explanations/{MODEL}"),
    ("GET", "/ping"),
    ("GET", "/metrics"),
    ("GET", "/models"),
    ("GET", f"/models/{MODEL}"),
    ("PUT", f"/models/{MODEL}?min_worker=0&max_worker=0"),
    ("POST", f"/models?url={MODEL}-1.0"),
    ("DELETE", f"/models/{MODEL}/1.0"),
    ("GET", "/token?type=management"),
    ("GET", "/v2/health/ready"),
    ("POST", f"/v2/models/{MODEL}/infer"),
    ("POST", f"/v1/models/{MODEL}:predict"),
    ("POST", f"/wfpredict/{MODEL}"),
]


@pytest.fixture(scope="module")
def guarded(digits: Path) -> Iterator[RunningGateway]:
    """A gateway that asks for tokens, on a store and below a TMPDIR that every user may enter."""
    root = Path(tempfile.mkdtemp(prefix="guarded-"))
    root.chmod(0o755)
    shutil.copytree(digits / "store", root / "store", ignore=shutil.ignore_patterns(SOCKET))
    write_tokens(root / "tokens", {TOKEN: "predict,explain,examples"})
    gateway = RunningGateway(root / "store", root / "gateway.log", "--tokens-file", str(root / "tokens"))
    gateway.temporary.chmod(0o755)
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def ports(guarded: RunningGateway) -> list[int]:
    """Every TCP port that a process below the gateway listens on."""
    found = [
        c.laddr.port for p in guarded.descendants() for c in p.net_connections() if c.status == psutil.CONN_LISTEN
    ]
    assert len(found) >= 2
    return found


def asked_over_grpc(port: int, method: str, message: bytes, headers: dict[str, str]) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(message, timeout=10, metadata=tuple(headers.items()))
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def asked_over_http(port: int, method: str, path: str, headers: dict[str, str]) -> int | None:
    """The status; None from a port that speaks no HTTP."""
    try:
        url = f"http://127.0.0.1:{port}{path}"
        return httpx.request(method, url, content=GOOD, headers=headers, timeout=10, trust_env=False).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("headers", CREDENTIALS, ids=["none", "empty", "wrong", "the caller's own"])
def test_torchserve_answers_nobody_without_its_key(
    guarded: RunningGateway, ports: list[int], headers: dict[str, str]
) -> None:
    asked = WorkerRequest(explain=pb.ExplainRequest(encoded_image=GOOD, view=pb.VIEW_THUMBNAIL))
    message = PredictionsRequest(model_name=MODEL, input={"data": asked.SerializeToString()}).SerializeToString()
    calls = [(f"/{INFERENCE}/{name}", message) for name in ("Predictions", "Ping")]
    calls += [(f"/{INFERENCE}/{name}", message) for name in ("StreamPredictions", "StreamPredictions2")]
    calls += [(f"/{OPEN_INFERENCE}/{name}", b"") for name in ("ServerReady", "ModelMetadata", "ModelInfer")]
    calls += [(f"{GRPC_MANAGEMENT}/{name}", b"") for name in ("ListModels", "UnregisterModel", "ScaleWorker")]
    by_grpc = [asked_over_grpc(port, *call, headers) for port in ports for call in calls]
    by_http = [asked_over_http(port, *call, headers) for port in ports for call in HTTP_CALLS]
    assert grpc.StatusCode.OK not in by_grpc and grpc.StatusCode.PERMISSION_DENIED in by_grpc
    assert set(by_http) <= {400, 401, 403, 404, 405, None} and {400, 401, 403} & set(by_http), by_http
    reply = guarded.rpc.Explain(
        pb.ExplainRequest(model=MODEL, encoded_image=GOOD), metadata=(("authorization", f"Bearer {TOKEN}"),)
    )
    assert reply.prediction.class_id == 3


def as_nobody(script: str, *arguments: str) -> str:
    """What a Python script prints that is run by the user nobody, who may not be able to start this interpreter."""
    command = [sys.executable, "-c", BECOME_NOBODY + script, *arguments]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BECOME_NOBODY = f"""
import os, socket, sys
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""
READ = """
for path in sys.argv[1:]:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()
        print("read", path)
    except PermissionError:
        pass
"""
CONNECT = """
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    print("connected")
except PermissionError:
    pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_nothing_and_reaches_no_socket(guarded: RunningGateway) -> None:
    [root] = guarded.temporary.iterdir()
    keys = [entry["key"] for entry in json.loads((root / "key_file.json").read_text()).values()]
    assert len(keys) == 3 and all(keys)
    family = [psutil.Process(guarded.process.pid), *guarded.descendants()]
    inside = [str(path) for path in root.rglob("*") if path.exists() and not path.is_socket()]
    secret = [str(root), *inside, *(f"/proc/{process.pid}/environ" for process in family)]
    assert as_nobody(READ, *secret) == ""
    said = "".join(argument for process in family for argument in process.cmdline())
    logged = guarded.log.read_text() + "".join(path.read_text() for path in root.glob("*.log"))
    assert not [key for key in keys if key in said or key in logged]
    sockets = [str(path) for path in root.rglob("*") if path.is_socket()]
    assert sockets
    for path in (*sockets, str(Path(guarded.store) / SOCKET)):
        assert as_nobody(CONNECT, path) == "", path
    # What nobody cannot do is not simply impossible: the same scripts succeed on what is open.
    assert as_nobody(READ, str(guarded.temporary)) == f"read {guarded.temporary}"


def test_the_gateways_own_key_opens_torchserve(guarded: RunningGateway, ports: list[int]) -> None:
    """The ports are closed by the key and not by a fault: who can read the file gets in."""
    [root] = guarded.temporary.iterdir()
    keys = json.loads((root / "key_file.json").read_text())
    inference = {"authorization": f"Bearer {keys['inference']['key']}"}
    management = {"authorization": f"Bearer {keys['management']['key']}"}
    listed = [asked_over_grpc(port, f"{GRPC_MANAGEMENT}/ListModels", b"", management) for port in ports]
    assert listed.count(grpc.StatusCode.OK) == 1
    pings = [asked_over_http(port, "GET", "/ping", inference) for port in ports]
    assert pings.count(200) == 1
