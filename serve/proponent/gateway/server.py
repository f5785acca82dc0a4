"""The gateway process: workers below, two transports above, one event loop, an orderly end."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any

import structlog
import uvloop

from proponent.gateway.auth.authenticator import authenticator_of
from proponent.gateway.file_watch import WatchedFiles, watch
from proponent.gateway.grpc.server import GrpcServer
from proponent.gateway.hosting.host import OpenHost
from proponent.gateway.hosting.supervisor import Supervisor
from proponent.gateway.hosting.worker_client import WorkerClient
from proponent.gateway.http.app import create_app
from proponent.gateway.http.listener import HttpServer, http_server, listen
from proponent.gateway.limits.connections import raise_file_limit
from proponent.gateway.log import configure_logs, write_or_drop
from proponent.gateway.metrics import Metrics
from proponent.gateway.privacy.gate import gate_of
from proponent.gateway.rollout.control_server import accept_commands
from proponent.gateway.rollout.membership import Membership
from proponent.gateway.rollout.reconciliation import Reconciliation
from proponent.gateway.rollout.switch import Rollout, show_bundle
from proponent.gateway.served_model import Readiness, ServedModel, open_models
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.signals import StopSignals
from proponent.gateway.tls import Tls, tls_of
from proponent.gateway.tracing import Tracing
from proponent.index.store import Store

# How long new calls are refused with a reason before the transports stop: whoever calls at that very moment is told
# CANCELLED by gRPC, as if it had left by itself.
_REFUSAL_S = 0.5

_log = structlog.get_logger("proponent.gateway")


class Gateway:
    """Everything that runs; made from settings, run once."""

    def __init__(self, settings: Settings, models: dict[str, ServedModel]) -> None:
        self._settings = settings
        self._models = models
        self._metrics = metrics = Metrics()
        self._tracing = _tracing(settings)
        self._readiness = Readiness(models)
        self._changed = asyncio.Event()
        worker = WorkerClient(settings.most("worker_timeout"))
        self._authenticator = authenticator_of(settings)
        self._gate = gate_of(settings)
        self._calls = ExplanationCalls(models, worker, settings, metrics, self._authenticator, self._gate)
        self._supervisor = Supervisor(models, worker, _host(settings), settings, metrics, self._changed.set)
        store = Store(settings.store)
        self._rollout = rollout = Rollout(store, models, self._supervisor, worker, metrics)
        self._membership = Membership(
            models, rollout, self._supervisor, settings, metrics, self._changed.set, self._calls.forget
        )
        self._reconciliation = Reconciliation(models, self._membership, rollout, store, watches=settings.watch)
        for model in models.values():
            metrics.add_model(model.name)
            if model.readable:
                show_bundle(metrics, model.deployment)

    async def run(self) -> None:
        """Serves until told to stop (see ``StopSignals``), then drains and stops all that it started."""
        signals = StopSignals()
        app = create_app(self._calls, self._metrics, self._readiness, self._settings, self._tracing)
        tls = tls_of(self._settings)
        with closing(listen(self._settings.http_address, self._settings.max_connections)) as listener:
            self._metrics.connections.set_function(lambda: listener.open)
            self._metrics.connection_limit.set(listener.most)
            http = http_server(app, self._settings, tls)
            grpc = GrpcServer(self._calls, self._readiness, self._metrics, self._settings, tls, self._tracing)
            await grpc.start()
            # A full collection over all that libraries hold stops the event loop for a tenth of a second.
            gc.collect()
            gc.freeze()
            self._addresses = _addresses(self._settings, grpc.port, listener)
            _log.info("listening", **self._addresses)
            tasks = [
                asyncio.create_task(self._supervisor.run()),
                asyncio.create_task(self._report_health(grpc)),
                asyncio.create_task(self._reconciliation.run()),
                asyncio.create_task(watch(self._watched(tls))),
            ]
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            try:
                async with accept_commands(self._settings.store, self._rollout, self._membership):
                    await _first_to_end([asyncio.ensure_future(signals.stop.wait()), serving, *tasks])
            finally:
                await self._stop(grpc, http, serving, tasks, signals)

    def _watched(self, tls: Tls | None) -> list[WatchedFiles]:
        """The files that are read again when they change."""
        tokens = self._authenticator.files()
        return [*tokens] if tls is None else [*tokens, WatchedFiles("TLS", tls.paths, tls.load)]

    async def _report_health(self, grpc: GrpcServer) -> None:
        """Passes readiness on to gRPC's health service, and says once when all is ready."""
        announced = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            ready = await self._set_health(grpc)
            if ready and not announced:
                announced = True
                named = " ".join(f"{name}={value}" for name, value in self._addresses.items())
                write_or_drop(sys.__stdout__, f"ready {named}\n")

    async def _set_health(self, grpc: GrpcServer) -> bool:
        """Tells gRPC's health service of the gateway and of each model; returns whether the gateway is ready."""
        ready = self._readiness.error() is None
        self._metrics.gateway_ready.set(ready)
        await grpc.set_serving(ready, {name: self._readiness.error_of(name) is None for name in self._models})
        return ready

    async def _stop(
        self,
        grpc: GrpcServer,
        http: HttpServer,
        serving: asyncio.Task[None],
        tasks: list[asyncio.Task[None]],
        signals: StopSignals,
    ) -> None:
        self._readiness.draining = True
        await self._set_health(grpc)
        await self._answer_on(signals)
        self._calls.stopping = True
        await asyncio.sleep(_REFUSAL_S)
        _log.info("stopping", drain_s=self._settings.drain_timeout)
        http.should_exit = True
        forcing = asyncio.create_task(_force_stop(grpc, http, signals))
        await asyncio.gather(grpc.stop(self._settings.drain_timeout), serving, return_exceptions=True)
        for task in (*tasks, forcing):
            task.cancel()
        await asyncio.gather(*tasks, forcing, return_exceptions=True)
        if self._gate.audit_log is not None:
            self._gate.audit_log.close()
        await asyncio.to_thread(self._tracing.close)
        _log.info("stopped")

    async def _answer_on(self, signals: StopSignals) -> None:
        """Goes on answering for as long as a balancer may need to see that the gateway is no longer ready."""
        delay = self._settings.drain_delay
        if not signals.drains or not delay:
            return
        _log.info("no longer ready; still answering", drain_delay_s=delay)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await signals.force_stop.wait()


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
    raise_file_limit()
    uvloop.run(serve(settings))
    return 0


async def _force_stop(grpc: GrpcServer, http: HttpServer, signals: StopSignals) -> None:
    """At a second signal, drops the calls that the drain still waits for."""
    await signals.force_stop.wait()
    _log.warning("second signal: calls in flight are dropped")
    http.force_exit = True
    await grpc.stop(0)


async def _first_to_end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Waits for the first to end; raises its error, if that is how it ended."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _host(settings: Settings) -> OpenHost:
    """What runs the workers; neither needs what the other is made of."""
    if settings.worker_host == "processes":
        from proponent.gateway.processes.host import process_host

        return process_host
    from proponent.gateway.torchserve.host import torchserve_host

    return torchserve_host


def _tracing(settings: Settings) -> Tracing:
    if settings.otlp_endpoint is None:
        return Tracing()
    from proponent.gateway.otlp import OtlpTracing

    return OtlpTracing(settings.otlp_endpoint, settings.trace_share)


def _addresses(settings: Settings, grpc_port: int, listener: socket.socket) -> dict[str, str]:
    grpc_host = settings.grpc_address.rpartition(":")[0]
    http_host = settings.http_address.rpartition(":")[0]
    scheme = "https" if settings.tls_certificate else "http"
    return {"grpc": f"{grpc_host}:{grpc_port}", "http": f"{scheme}://{http_host}:{listener.getsockname()[1]}"}
