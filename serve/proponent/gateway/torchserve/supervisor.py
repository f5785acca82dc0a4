"""Keeps a TorchServe with a healthy worker for every model, and knows for each model whether there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from proponent.bounds.liveness import TicketIssuer, silence_s
from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.deployment import Deployment
from proponent.gateway.lane import Lane
from proponent.gateway.metrics import Metrics
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve.archive import Archive, write_archive
from proponent.gateway.torchserve.launch import Layout, tail
from proponent.gateway.torchserve.management import Management, WorkerStatus
from proponent.gateway.torchserve.private import private_layout
from proponent.gateway.torchserve.process import TorchServe
from proponent.gateway.torchserve.worker_client import WorkerClient
from proponent.gateway.torchserve.worker_state import Prober, WorkerState, ready_pids, resident_bytes

POLL_S = 0.25
SILENT_S = 10.0
"""Longest time without a heartbeat; a worker writes one every second."""
_STOP_GRACE_S = 8.0
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0

_log = structlog.get_logger("proponent.gateway")


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
        self._states: dict[tuple[str, Lane], WorkerState] = {}
        self._layout: Layout | None = None
        for name in models:
            metrics.worker_memory.labels(name).set_function(partial(self._worker_memory, name))
        self._management: Management | None = None

    async def run(self) -> None:
        """Runs until cancelled; then TorchServe is stopped and its directory removed."""
        with private_layout() as layout:
            self._layout = layout
            self._tickets = TicketIssuer.create(layout.liveness, self._settings.queue_size)
            for model in self._models.values():
                if model.readable:
                    for archive in self.write_archives(model.deployment):
                        self._states[model.name, archive.lane] = self._new_state(model.deployment, archive)
            await self._keep_running(layout)

    @property
    def management(self) -> Management:
        """The management API of the TorchServe that runs now.

        Raises:
            UnavailableError: None does.
        """
        if self._management is None:
            raise UnavailableError("the model server is being started", reason="WORKER_RESTARTING")
        return self._management

    def write_archives(self, deployment: Deployment) -> list[Archive]:
        """Writes what TorchServe needs of a deployment into its model store, lane by lane.

        Raises:
            UnavailableError: There is none yet.
        """
        if self._layout is None:
            raise UnavailableError("the model server is being started", reason="WORKER_STARTING")
        model, version, bundle = deployment.model, deployment.version, deployment.bundle.path
        weights, liveness = self._models[model].weights, self._layout.liveness
        return [
            write_archive(self._layout.model_store, model, version, bundle, weights, self._settings, liveness, lane)
            for lane in deployment.lanes
        ]

    def adopt(self, deployment: Deployment, archives: Sequence[Archive]) -> list[WorkerState]:
        """Watches a deployment, whose workers are known to be healthy, instead of its model's one before."""
        before = [self._states.get((deployment.model, lane)) for lane in deployment.lanes]
        for archive in archives:
            self._states[deployment.model, archive.lane] = state = self._new_state(deployment, archive)
            state.prober.mark_healthy()
            self._set_error(state, None, settled=True)
        replaced = [state for state in before if state is not None]
        for state in replaced:
            state.prober.stop()
        return replaced

    async def _keep_running(self, layout: Layout) -> None:
        delay = _FIRST_DELAY_S
        while True:
            started = time.monotonic()
            try:
                await self._serve(layout)
            except UnavailableError as error:
                self._report(f"TorchServe failed: {error.message}", layout)
                self._set_all_unready()
            lived = time.monotonic() - started
            self._metrics.torchserve_restarts.inc()
            delay = _FIRST_DELAY_S if lived > 2 * _LONGEST_DELAY_S else min(2 * delay, _LONGEST_DELAY_S)
            _log.info("TorchServe starts again", after_s=delay)
            await asyncio.sleep(delay)

    async def _serve(self, layout: Layout) -> None:
        """One life of TorchServe."""
        torchserve = await TorchServe.start(layout, self._settings)
        try:
            await torchserve.listening(self._settings.start_timeout)
            async with torchserve.management() as management:
                self._worker.connect(torchserve.inference_address, torchserve.keys.inference, self._tickets)
                for state in self._states.values():
                    await management.register(state.archive.path.name)
                    state.reset()
                self._management = management
                await self._watch(torchserve, management, layout)
        finally:
            self._management = None
            await torchserve.stop(_STOP_GRACE_S)

    async def _watch(self, torchserve: TorchServe, management: Management, layout: Layout) -> None:
        while not torchserve.ended:
            for state in list(self._states.values()):
                await self._inspect(state, management, layout)
            await torchserve.pause(POLL_S)
        raise UnavailableError("its process ended")

    async def _inspect(self, state: WorkerState, management: Management, layout: Layout) -> None:
        try:
            workers = await management.workers(state.archive.model, state.archive.version)
        except UnavailableError:
            if self._is_current(state):
                raise
            return
        if self._is_current(state):
            await self._update(state, workers, management, layout)

    async def _update(
        self, state: WorkerState, workers: Sequence[WorkerStatus], management: Management, layout: Layout
    ) -> None:
        """Acts on the state of a lane's workers; a question to one of them goes on beside this."""
        ready = ready_pids(workers)
        self._metrics.worker_restarts.labels(state.deployment.model).inc(len(state.pids - ready))
        if not ready:
            await self._note_missing(state, workers, management, layout)
            return
        state.note_ready(ready)
        state.prober.probe_if_due()
        self._set_error(state, _silence_error(state, layout) or state.prober.error, settled=state.prober.certain)

    async def _note_missing(
        self, state: WorkerState, workers: Sequence[WorkerStatus], management: Management, layout: Layout
    ) -> None:
        worker = state.worker
        if state.note_missing():
            self._report(f"{worker} died", layout)
        reason, died = "is starting", state.clock.died_while_starting(workers)
        if died:
            reason = "died while it started; the server's log has its last words"
            self._metrics.worker_restarts.labels(state.deployment.model).inc()
            self._report(f"{worker} died while it started", layout)
        error = UnavailableError(f"the {worker} {reason}", reason="WORKER_STARTING")
        self._set_error(state, error, settled=died)
        await self._check_start_time(state, management, layout)

    async def _check_start_time(self, state: WorkerState, management: Management, layout: Layout) -> None:
        """Reports a slow start from time to time; once it has taken too long, the model alone is started again."""
        waited = state.clock.waited_s
        if state.clock.is_slow():
            self._report(f"{state.worker} is not ready after {waited:.0f} s", layout)
        if waited > self._settings.start_timeout:
            _log.error("model registered again", model=state.archive.model, not_ready_for_s=round(waited))
            await management.unregister(state.archive.model, state.archive.version)
            await management.register(state.archive.path.name)
            state.reset()

    def _new_state(self, deployment: Deployment, archive: Archive) -> WorkerState:
        async def verdict() -> ProponentError | None:
            return await self._worker.verdict(deployment, archive.lane, self._settings.probe_timeout)

        return WorkerState(deployment, archive, Prober(deployment.model, verdict))

    def _worker_memory(self, model: str) -> int:
        states = (state for (name, _), state in self._states.items() if name == model)
        return sum(resident_bytes(pid) for state in states for pid in state.pids)

    def _is_current(self, state: WorkerState) -> bool:
        """Whether its deployment still takes requests; what is found out about another one counts for nothing."""
        return self._states[state.deployment.model, state.archive.lane] is state

    def _set_error(self, state: WorkerState, error: ProponentError | None, *, settled: bool = False) -> None:
        if not self._is_current(state):
            return
        model, lane = self._models[state.deployment.model], state.archive.lane
        before, was_ready, was_starting = model.own_error(lane), model.error is None, model.starting
        model.set_error(error, lane)
        if settled:
            model.settle(lane)
        self._metrics.ready.labels(model.name).set(model.error is None)
        self._metrics.lane_ready.labels(model.name, lane.value).set(error is None)
        if error is None and before is not None:
            _log.info("model ready", model=model.name, lane=lane.value, bundle=state.deployment.manifest.digest)
        elif error is not None and (before is None or before.reason != error.reason):
            _log.error(
                "model not ready", model=model.name, lane=lane.value, reason=error.reason, detail=error.message
            )
        if (model.error is None) != was_ready or model.starting != was_starting:
            self._on_change()

    def _set_all_unready(self) -> None:
        for (name, _), state in self._states.items():
            error = UnavailableError(f"model {name!r}: the model server is restarting", reason="WORKER_RESTARTING")
            self._set_error(state, error)

    def _report(self, event: str, layout: Layout) -> None:
        logs = {path.stem: tail(path) for path in (layout.worker_log, layout.torchserve_log, layout.java_log)}
        _log.error(event, **logs)


def _silence_error(state: WorkerState, layout: Layout) -> ProponentError | None:
    """The error of workers that all have stopped to give signs of life."""
    seconds = min(silence_s(layout.liveness, pid) for pid in state.pids)
    if seconds <= SILENT_S:
        return None
    message = f"the {state.worker} gave no sign of life for {seconds:.0f} s"
    return UnavailableError(message, reason="WORKER_UNRESPONSIVE")
