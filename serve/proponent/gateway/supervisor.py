"""Keeps a TorchServe with a healthy worker for every model, and knows for each model whether there is one."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping

import structlog

from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.archive import Archive, WorkerOptions, write_archive
from proponent.gateway.launch import Capacity, Layout, private_directory, tail
from proponent.gateway.management import Management, WorkerStatus
from proponent.gateway.metrics import Metrics
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve import TorchServe
from proponent.gateway.worker_client import WorkerClient
from proponent.v1.worker_pb2 import WorkerRequest

VERSION = "1.0"
_POLL_S = 0.25
_SLOW_S = 20.0
_STOP_GRACE_S = 8.0
_PROBE_TIMEOUT_S = 30.0
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0

_log = structlog.get_logger("proponent.gateway")


class _Watched:
    """What the supervisor remembers of a model between two looks at its workers."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.reset()

    def reset(self) -> None:
        """Forgets the workers of a TorchServe that is gone."""
        self.probed: frozenset[int] = frozenset()
        self.seen: frozenset[int] = frozenset()
        self.start_clock()

    def start_clock(self) -> None:
        """Starts to count how long a worker is missing."""
        self.waiting_since = time.monotonic()
        self.next_report = self.waiting_since + _SLOW_S

    def is_slow(self) -> bool:
        """True every ``_SLOW_S`` seconds of waiting."""
        if time.monotonic() < self.next_report:
            return False
        self.next_report += _SLOW_S
        return True


class Supervisor:
    """Starts TorchServe, registers the models, watches their workers, and starts it again when it dies.

    Args:
        models: Whose ``error`` is kept up to date.
        worker: Reconnected to every new TorchServe.
        on_change: Called after any model became ready or stopped being so.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        worker: WorkerClient,
        settings: Settings,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self._models = models
        self._worker = worker
        self._settings = settings
        self._metrics = metrics
        self._on_change = on_change
        self._watched: dict[str, _Watched] = {}

    async def run(self) -> None:
        """Runs until cancelled; then TorchServe is stopped and its directory removed."""
        root = private_directory()
        try:
            layout = Layout(root)
            layout.create()
            self._write_archives(layout)
            await self._keep(layout)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    async def _keep(self, layout: Layout) -> None:
        delay = _FIRST_DELAY_S
        while True:
            started = time.monotonic()
            try:
                await self._serve(layout)
            except UnavailableError as error:
                self._report(f"TorchServe failed: {error.message}", layout)
                self._set_all_unready()
            lived = time.monotonic() - started
            delay = _FIRST_DELAY_S if lived > 2 * _LONGEST_DELAY_S else min(2 * delay, _LONGEST_DELAY_S)
            _log.info("TorchServe starts again", after_s=delay)
            await asyncio.sleep(delay)

    async def _serve(self, layout: Layout) -> None:
        """One life of TorchServe."""
        torchserve = await TorchServe.start(layout, self._capacity())
        try:
            async with torchserve.management() as management:
                await torchserve.listening(management, self._settings.start_timeout_s)
                await self._worker.connect(torchserve.grpc_address)
                for watched in self._watched.values():
                    await management.register(watched.archive.path.name)
                    watched.reset()
                await self._watch(torchserve, management, layout)
        finally:
            await torchserve.stop(_STOP_GRACE_S)

    async def _watch(self, torchserve: TorchServe, management: Management, layout: Layout) -> None:
        while not torchserve.ended:
            for name, watched in self._watched.items():
                workers = await management.workers(name, watched.archive.version)
                await self._look(self._models[name], watched, workers, layout)
            await torchserve.pause(_POLL_S)
        raise UnavailableError("its process ended")

    async def _look(self, model: ServedModel, watched: _Watched, workers: list[WorkerStatus], layout: Layout) -> None:
        """Acts on a change of a model's workers."""
        ready = frozenset(worker.pid for worker in workers if worker.ready)
        if not ready:
            self._note_absence(model, watched, workers, layout)
        elif ready != watched.probed:
            watched.start_clock()
            healthy = await self._probe(model)
            watched.probed = ready if healthy else frozenset()

    def _note_absence(
        self, model: ServedModel, watched: _Watched, workers: list[WorkerStatus], layout: Layout
    ) -> None:
        if watched.probed:
            watched.start_clock()
            self._report(f"worker of model {model.name!r} died", layout)
        watched.probed = frozenset()
        reason = "is starting"
        started = frozenset(worker.pid for worker in workers if worker.pid > 0)
        if watched.seen and started - watched.seen:
            reason = "died while it started; the server's log has its last words"
            self._report(f"worker of model {model.name!r} died while it started", layout)
        watched.seen |= started
        self._set(model, UnavailableError(f"the worker of model {model.name!r} {reason}", reason="WORKER_STARTING"))
        self._check_patience(model, watched, layout)

    def _check_patience(self, model: ServedModel, watched: _Watched, layout: Layout) -> None:
        """Reports a slow start from time to time; raises once it has taken too long."""
        waited = time.monotonic() - watched.waiting_since
        if watched.is_slow():
            self._report(f"worker of model {model.name!r} is not ready after {waited:.0f} s", layout)
        if waited > self._settings.start_timeout_s:
            raise UnavailableError(f"no worker of model {model.name!r} became ready within {waited:.0f} s")

    async def _probe(self, model: ServedModel) -> bool:
        """Asks a ready worker whether its bundle is sound; False means that it must be asked again."""
        try:
            await self._worker.ask(model.name, WorkerRequest(), _PROBE_TIMEOUT_S)
        except UnavailableError as error:
            self._set(model, error)
            return error.reason == "BUNDLE_CORRUPT"
        except ProponentError as error:
            self._set(model, error)
            return True
        self._set(model, None)
        return True

    def _set(self, model: ServedModel, error: ProponentError | None) -> None:
        before, model.error = model.error, error
        self._metrics.ready.labels(model.name).set(error is None)
        if error is None and before is not None:
            _log.info("model ready", model=model.name, bundle=model.manifest.digest)
        elif error is not None and (before is None or before.reason != error.reason):
            _log.error("model not ready", model=model.name, reason=error.reason, detail=error.message)
        if (error is None) != (before is None):
            self._on_change()

    def _set_all_unready(self) -> None:
        for name in self._watched:
            error = UnavailableError(f"model {name!r}: the model server is restarting", reason="WORKER_RESTARTING")
            self._set(self._models[name], error)

    def _report(self, event: str, layout: Layout) -> None:
        logs = {path.stem: tail(path) for path in (layout.worker_log, layout.torchserve_log, layout.java_log)}
        _log.error(event, **logs)

    def _write_archives(self, layout: Layout) -> None:
        options = WorkerOptions(
            workers=self._settings.workers,
            batch_size=self._settings.batch_size,
            batch_delay_ms=self._settings.batch_delay_ms,
            response_timeout_s=self._settings.worker_timeout_s,
            start_timeout_s=int(self._settings.start_timeout_s),
        )
        for model in self._models.values():
            if model.readable:
                bundle = model.contents.path
                archive = write_archive(layout.model_store, model.name, VERSION, bundle, model.weights, options)
                self._watched[model.name] = _Watched(archive)

    def _capacity(self) -> Capacity:
        limits = self._settings.limits
        return Capacity(
            queue_size=self._settings.queue_size,
            request_bytes=limits.message_bytes + (1 << 20),
            response_bytes=limits.reply_bytes,
            threads=self._settings.threads,
        )
