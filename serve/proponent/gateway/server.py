"""The gateway process: TorchServe below, two doors above, one event loop, an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from proponent.errors import SpecError
from proponent.gateway.auth import Authenticator
from proponent.gateway.grpc_server import GrpcServer
from proponent.gateway.http_server import create_app
from proponent.gateway.log import configure_logs
from proponent.gateway.metrics import Metrics
from proponent.gateway.readiness import Readiness
from proponent.gateway.served_model import ServedModel, open_models
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings, split_address
from proponent.gateway.supervisor import Supervisor
from proponent.gateway.worker_client import WorkerClient

_BACKLOG = 1024

_log = structlog.get_logger("proponent.gateway")


class HttpServer(uvicorn.Server):
    """uvicorn inside another's event loop: that one handles the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


class Gateway:
    """Everything that runs; made from settings, run once."""

    def __init__(self, settings: Settings, models: Mapping[str, ServedModel]) -> None:
        self._settings = settings
        self._models = models
        self._metrics = Metrics()
        self._readiness = Readiness(models)
        self._changed = asyncio.Event()
        self._worker = WorkerClient(settings.limits.reply_bytes)
        authenticator = Authenticator.from_file(settings.security.tokens_file)
        self._calls = ExplanationCalls(models, self._worker, settings, self._metrics, authenticator)
        for model in models.values():
            if model.readable:
                self._metrics.bundle.labels(model.name, model.manifest.digest).set(1)

    async def run(self) -> None:
        """Serves until SIGINT or SIGTERM, then drains and stops all that it started."""
        stop = _stop_event()
        app = create_app(self._calls, self._metrics, self._readiness, self._settings.limits)
        with closing(_bind(self._settings.http_address)) as listener:
            http = _http_server(app, self._settings)
            grpc = GrpcServer(self._calls, self._metrics, self._settings)
            await grpc.start()
            self._addresses = _addresses(self._settings, grpc.port, listener)
            _log.info("listening", **self._addresses)
            tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._publish_health(grpc))]
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            try:
                await _first([asyncio.ensure_future(stop.wait()), serving, *tasks])
            finally:
                await self._stop(grpc, http, serving, tasks)

    async def _supervise(self) -> None:
        def changed() -> None:
            self._changed.set()

        await Supervisor(self._models, self._worker, self._settings, self._metrics, changed).run()

    async def _publish_health(self, grpc: GrpcServer) -> None:
        """Passes readiness on to gRPC's health service, and says once when all is ready."""
        announced = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            ready = self._readiness.error() is None
            await grpc.set_serving(ready)
            if ready and not announced:
                announced = True
                print("ready " + " ".join(f"{name}={value}" for name, value in self._addresses.items()), flush=True)

    async def _stop(
        self, grpc: GrpcServer, http: HttpServer, serving: asyncio.Task[None], tasks: list[asyncio.Task[None]]
    ) -> None:
        _log.info("stopping", drain_s=self._settings.drain_timeout_s)
        self._readiness.draining = True
        http.should_exit = True
        await asyncio.gather(grpc.stop(self._settings.drain_timeout_s), serving, return_exceptions=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.close()
        _log.info("stopped")


async def serve(settings: Settings) -> None:
    """Serves until told to stop.

    Raises:
        ProponentError: The settings, the store or an address cannot be used.
    """
    models = open_models(settings)
    try:
        await Gateway(settings, models).run()
    finally:
        for model in models.values():
            model.close()


def run(settings: Settings) -> int:
    """Runs ``serve`` with logs on standard error; returns the exit status."""
    configure_logs()
    asyncio.run(serve(settings))
    return 0


def _stop_event() -> asyncio.Event:
    event = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


async def _first(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Waits for the first to end; raises its error, if that is how it ended."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _bind(address: str) -> socket.socket:
    host, port = split_address(address, "http_address")
    try:
        return socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
    except OSError as error:
        raise SpecError(f"cannot listen on http_address {address!r}: {error}", field="http_address") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _http_server(app: FastAPI, settings: Settings) -> HttpServer:
    security = settings.security
    client_ca = security.tls_client_ca
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
        ssl_certfile=security.tls_certificate,
        ssl_keyfile=security.tls_key,
        ssl_ca_certs=None if client_ca is None else str(client_ca),
        ssl_cert_reqs=0 if client_ca is None else 2,
    )
    return HttpServer(config)


def _addresses(settings: Settings, grpc_port: int, listener: socket.socket) -> dict[str, str]:
    grpc_host = settings.grpc_address.rpartition(":")[0]
    http_host = settings.http_address.rpartition(":")[0]
    scheme = "https" if settings.security.tls_certificate else "http"
    return {"grpc": f"{grpc_host}:{grpc_port}", "http": f"{scheme}://{http_host}:{listener.getsockname()[1]}"}
