"""The gateway shows TorchServe its keys: with every inference, with every call of its management."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from gateway_fakes import manifest, torchserve
from proponent.bounds.frames import BATCH, joined
from proponent.bounds.liveness import TicketIssuer
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.hosting.worker_client import WorkerClient
from proponent.gateway.http.listener import HttpServer, listen
from proponent.gateway.torchserve.host import answer_of
from proponent.gateway.torchserve.http_client import HttpClient
from proponent.gateway.torchserve.launch import Layout, TorchServeKeys
from proponent.gateway.torchserve.management import Management
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

# As TorchServe 0.12 writes it.
KEY_FILE = {
    "management": {"key": "qz0wYVbP", "expiration time": "2126-12-02T15:04:05.6Z"},
    "inference": {"key": "Ld-2_mGk", "expiration time": "2126-12-02T15:04:05.6Z"},
    "API": {"key": "1UJbW8Rm"},
}


def test_keys_are_read_from_torchserves_file(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.key_file.write_text(json.dumps(KEY_FILE))
    assert TorchServeKeys.of(layout) == TorchServeKeys(inference="Ld-2_mGk", management="qz0wYVbP")


def test_every_inference_shows_the_key_of_the_torchserve_that_runs_now(tmp_path: Path) -> None:
    tickets = TicketIssuer.create(tmp_path / "liveness", 2)

    async def run() -> list[str | None]:
        asked: list[str | None] = []
        client, inference = WorkerClient(5), HttpClient(BATCH, 1 << 20, answer_of)
        deployment = Deployment("toy", "1.0", BundleHandle(Path(), manifest(), None, None))  # type: ignore[arg-type]
        reply = joined([WorkerReply(predict=pb.PredictResponse()).SerializeToString()])
        host = await torchserve(tmp_path, inference)
        async with torchserve_api(asked, Response(reply, media_type="application/x-protobuf")) as address:
            for key in ("first", "second"):
                inference.connect(address, key)
                client.connect(host, tickets)
                await client.send(deployment, WorkerRequest(predict=pb.PredictRequest()), 10)
            inference.close()
        return asked

    assert asyncio.run(run()) == ["Bearer first", "Bearer second"]


@asynccontextmanager
async def torchserve_api(asked: list[str | None], answer: Response) -> AsyncIterator[str]:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def note(request: Request) -> Response:
        asked.append(request.headers.get("authorization"))
        return answer

    server = HttpServer(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    with listen("127.0.0.1:0", 16) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def test_every_call_of_management_shows_its_key() -> None:
    async def run() -> list[str | None]:
        asked: list[str | None] = []
        async with (
            torchserve_api(asked, JSONResponse([{"workers": []}])) as address,
            Management(address, "key") as management,
        ):
            await management.register("toy-1.0")
            await management.workers("toy", "1.0")
            await management.set_default("toy", "1.0")
            await management.unregister("toy", "1.0")
        return asked

    assert asyncio.run(run()) == ["Bearer key"] * 4
