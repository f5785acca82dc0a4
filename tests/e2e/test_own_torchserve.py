"""A packaged model answers in another TorchServe: raw images by HTTP, WorkerRequests by gRPC, errors as JSON."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from inputs import GOOD, MODEL

from proponent.cli.package_model import main as package
from proponent.errors import NotFoundError
from proponent.gateway.hosting.private import private_directory
from proponent.gateway.hosting.worker_state import ready_pids
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve.launch import Layout
from proponent.gateway.torchserve.process import TorchServe
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.inference_pb2 import PredictionsRequest
from proponent.v1.inference_pb2_grpc import InferenceAPIsServiceStub
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

pytestmark = pytest.mark.e2e
FORM = "application/x-www-form-urlencoded"
BODIES: dict[str, dict[str, Any]] = {
    "png": {"content": GOOD, "headers": {"Content-Type": "image/png"}},
    "octets": {"content": GOOD, "headers": {"content-type": "application/octet-stream"}},
    "untyped": {"content": GOOD},
    "form file": {"files": {"data": ("digit.png", GOOD, "image/png")}},
    "curl's default": {"content": GOOD, "headers": {"Content-Type": FORM}},
    "text": {"content": b"no image", "headers": {"Content-Type": "image/png"}},
    "empty": {},
    "json": {"json": {"instances": []}},
    "message": {
        "content": WorkerRequest(predict=pb.PredictRequest(encoded_image=GOOD)).SerializeToString(),
        "headers": {"Content-Type": "application/x-protobuf"},
    },
}


@dataclass(frozen=True)
class Answers:
    """What TorchServe replied to every body at both of its paths, and over gRPC."""

    predictions: dict[str, httpx.Response]
    explanations: dict[str, httpx.Response]
    rpc: WorkerReply


@pytest.fixture(scope="module")
def answers(digits: Path) -> Answers:
    with private_directory() as root:
        return asyncio.run(_ask(Layout(root), digits / "store"))


async def _ask(layout: Layout, store: Path) -> Answers:
    torchserve = await TorchServe.start(layout, Settings(store=store))
    try:
        await _register(torchserve, layout, store)
        lines = layout.config.read_text().splitlines()
        base = dict(line.split("=", 1) for line in lines)["inference_address"]
        headers = {"Authorization": f"Bearer {torchserve.keys.inference}"}
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60, trust_env=False) as http:
            replies = [
                {name: await http.post(f"/{path}/{MODEL}", **body) for name, body in BODIES.items()}
                for path in ("predictions", "explanations")
            ]
        return Answers(*replies, await _ask_rpc(torchserve.grpc_address, torchserve.keys.inference))
    finally:
        await torchserve.stop(8)


async def _register(torchserve: TorchServe, layout: Layout, store: Path) -> None:
    assert package([str(store), MODEL, str(layout.model_store)]) == 0
    (archive,) = layout.model_store.iterdir()
    await torchserve.listening(60)
    async with torchserve.management() as management, asyncio.timeout(120):
        await management.register(archive.name)
        while not ready_pids(await management.workers(MODEL, archive.name.removeprefix(f"{MODEL}-"))):
            await asyncio.sleep(0.2)


async def _ask_rpc(address: str, key: str) -> WorkerReply:
    asked = WorkerRequest(explain=pb.ExplainRequest(encoded_image=GOOD, top_k=1, measures=[1]))
    async with grpc.aio.insecure_channel(address) as channel:
        message = PredictionsRequest(model_name=MODEL, input={"data": asked.SerializeToString()})
        reply = await InferenceAPIsServiceStub(channel).Predictions(
            message, timeout=60, metadata=(("authorization", f"Bearer {key}"),)
        )
    return WorkerReply.FromString(reply.prediction)


@pytest.mark.parametrize("body", ["png", "octets", "untyped", "form file"])
def test_a_raw_image_is_predicted_or_explained_by_path(answers: Answers, body: str) -> None:
    predicted, explained = answers.predictions[body], answers.explanations[body]
    assert (predicted.status_code, explained.status_code) == (200, 200)
    assert predicted.headers["content-type"] == explained.headers["content-type"] == "application/json"
    assert predicted.json()["prediction"]["class_id"] == explained.json()["prediction"]["class_id"] == 3
    assert "results" not in predicted.json() and len(explained.json()["results"]) == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("curl's default", "UNSUPPORTED_MEDIA_TYPE"),
        ("text", "IMAGE_UNREADABLE"),
        ("empty", "IMAGE_UNREADABLE"),
        ("json", "INVALID_INPUT"),
    ],
)
def test_anything_else_is_a_json_error(answers: Answers, body: str, reason: str) -> None:
    for reply in (answers.predictions[body], answers.explanations[body]):
        assert (reply.status_code, reply.headers["content-type"]) == (400, "application/json")
        assert reply.json()["error"]["reason"] == reason


def test_a_lost_image_says_how_to_send_it(answers: Answers) -> None:
    assert "--upload-file" in answers.predictions["curl's default"].json()["error"]["detail"]


def test_messages_are_answered_with_messages(answers: Answers) -> None:
    by_http = answers.predictions["message"]
    assert by_http.headers["content-type"] == "application/x-protobuf"
    assert WorkerReply.FromString(by_http.content).predict.prediction.class_id == 3
    assert len(answers.rpc.explain.results[0].proponents) == 1


def test_packaging_an_unknown_model_fails(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package([str(digits / "store"), "other", str(tmp_path)]) == NotFoundError.exit_code
    assert "no bundle for model 'other'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
