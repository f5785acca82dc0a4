"""Both transports of a gateway over fakes, listening on the loopback inside the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import uvloop

from gateway_fakes import Service
from proponent.gateway.auth import Authenticator
from proponent.gateway.grpc.server import GrpcServer
from proponent.gateway.http.app import create_app
from proponent.gateway.http.listener import HttpServer, http_server, listen
from proponent.gateway.served_model import Readiness
from proponent.gateway.tls import tls_of
from proponent.gateway.tracing import Tracing
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub


@dataclass(frozen=True)
class Listening:
    """Where the transports are, and what stands behind them."""

    service: Service
    http: HttpServer
    rpc: GrpcServer
    grpc_address: str
    http_address: tuple[str, int]

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.http_address)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20)

    def stub(self, channel: grpc.aio.Channel) -> Any:
        return ExplanationServiceStub(channel)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def opened(
    directory: Path, authenticator: Authenticator | None = None, tracing: Tracing | None = None, **settings: Any
) -> AsyncIterator[Listening]:
    anywhere = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    service = Service(directory, authenticator, **anywhere, **settings)
    readiness = Readiness(service.models)
    app = create_app(service.calls, service.metrics, readiness, service.settings, tracing)
    tls = tls_of(service.settings)
    rpc = GrpcServer(service.calls, readiness, service.metrics, service.settings, tls, tracing)
    http = http_server(app, service.settings, tls)
    with listen(service.settings.http_address, service.settings.max_connections) as listener:
        await rpc.start()
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        try:
            yield Listening(service, http, rpc, f"127.0.0.1:{rpc.port}", listener.getsockname())
        finally:
            http.should_exit = True
            await asyncio.gather(serving, rpc.stop(1))
            service.close()


def run(
    directory: Path,
    ask: Callable[[Listening], Awaitable[None]],
    runner: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run,
    **settings: Any,
) -> None:
    """Asks what listens in a loop of the kind that serves, or by another runner."""

    async def inside() -> None:
        async with opened(directory, **settings) as listening:
            await ask(listening)

    runner(inside())


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)
