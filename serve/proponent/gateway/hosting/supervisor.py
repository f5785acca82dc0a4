"""Keeps a host with a healthy worker for every model, and knows for each model whether there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from proponent.bounds.liveness import TicketIssuer, remove_heartbeats, silence_s
from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.deployment import Deployment
from proponent.gateway.hosting.host import REFUSED, OpenHost, WorkerGroup, WorkerHost, WorkerStatus
from proponent.gateway.hosting.logs import last_words
from proponent.gateway.hosting.private import LIVENESS, private_directory
from proponent.gateway.hosting.worker_client import WorkerClient
from proponent.gateway.hosting.worker_state import Prober, WorkerState, ready_pids, resident_bytes
from proponent.gateway.lane import Lane
from proponent.gateway.metrics import Metrics
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.index.storage import storage_errors

POLL_S = 0.25
SILENT_S = 10.0
"""Longest time without a heartbeat; a worker writes one every second."""
_TICKETS = 1 << 16
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0

_log = structlog.get_logger("proponent.gateway")


class Supervisor:
    """Starts the host, registers the models, watches their workers, and starts the host again when it dies.

    Args:
        models: Whose ``error`` is kept up to date; they come and go by ``watch`` and ``release``.
        worker: Connected to every new host.
        open_host: Starts one.
        on_change: Called after any model became ready or stopped being so.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        worker: WorkerClient,
        open_host: OpenHost,
        settings: Settings,
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self._models = models
        self._worker = worker
        self._open_host = open_host
        self._settings = settings
        self._metrics = metrics
        self._on_change = on_change
        self._states: dict[tuple[str, Lane], WorkerState] = {}
        self._root = Path()
        self._host: WorkerHost | None = None
        for model in models.values():
            self.watch(model)

    async def run(self) -> None:
        """Runs until cancelled; then the host is stopped and its directory removed."""
        with private_directory() as root:
            self._root = root
            with storage_errors(root):
                self._tickets = TicketIssuer.create(root / LIVENESS, _TICKETS)
            await self._keep_running()

    @property
    def host(self) -> WorkerHost:
        """The host that runs now.

        Raises:
            UnavailableError: None does.
        """
        if self._host is None:
            raise UnavailableError("the model server is being started", reason="WORKER_RESTARTING")
        return self._host

    def watch(self, model: ServedModel) -> None:
        """Starts the workers of a model as soon as there is a host, and watches them."""
        self._metrics.worker_memory.labels(model.name).set_function(partial(self._worker_memory, model.name))
        if model.readable:
            for group in self.groups(model.deployment):
                self._states[model.name, group.lane] = self._new_state(model.deployment, group)

    def release(self, name: str) -> list[WorkerState]:
        """Watches a model no more, whose workers go on with what they are asked until ``unregister``."""
        keys = [key for key in self._states if key[0] == name]
        taken = [self._states.pop(key) for key in keys]
        for state in taken:
            state.prober.stop()
        return taken

    def groups(self, deployment: Deployment) -> list[WorkerGroup]:
        """The workers of a deployment, lane by lane."""
        model, version, bundle = deployment.model, deployment.version, deployment.bundle.path
        weights = self._models[model].weights
        return [
            WorkerGroup(model, version, lane, bundle, weights, self._settings.of(model)) for lane in deployment.lanes
        ]

    def adopt(self, deployment: Deployment, groups: Sequence[WorkerGroup]) -> list[WorkerState]:
        """Watches a deployment, whose workers are known to be healthy, instead of its model's one before."""
        replaced = self.release(deployment.model)
        for group in groups:
            self._states[deployment.model, group.lane] = state = self._new_state(deployment, group)
            state.registered = True
            state.prober.mark_healthy()
            self._set_error(state, None, settled=True)
        return replaced

    async def unregister(self, states: Sequence[WorkerState]) -> None:
        """Ends workers that are watched no more; a host that is gone has ended them already."""
        for state in states:
            if not state.registered or self._host is None:
                continue
            state.registered = False
            try:
                await self._host.unregister(state.group)
            except UnavailableError as error:
                _log.warning("version not unregistered", model=state.group.name, why=error.message)

    async def _keep_running(self) -> None:
        delay = _FIRST_DELAY_S
        while True:
            started = time.monotonic()
            try:
                await self._serve()
            except UnavailableError as error:
                self._report(f"model server failed: {error.message}")
                self._set_all_unready()
            lived = time.monotonic() - started
            self._metrics.torchserve_restarts.inc()
            delay = _FIRST_DELAY_S if lived > 2 * _LONGEST_DELAY_S else min(2 * delay, _LONGEST_DELAY_S)
            _log.info("model server starts again", after_s=delay)
            await asyncio.sleep(delay)

    async def _serve(self) -> None:
        """One life of a host."""
        async with self._open_host(self._root, self._settings) as host:
            self._worker.connect(host, self._tickets)
            for state in self._states.values():
                state.reset()
            self._host = host
            try:
                await self._watch(host)
            except UnavailableError:
                self._set_all_unready()
                raise
            finally:
                self._host = None
                self._worker.disconnect()

    async def _watch(self, host: WorkerHost) -> None:
        while not host.ended:
            for state in list(self._states.values()):
                await self._inspect(state, host)
            remove_heartbeats(self._root / LIVENESS)
            await host.pause(POLL_S)
        raise UnavailableError("its process ended")

    async def _inspect(self, state: WorkerState, host: WorkerHost) -> None:
        """Looks after one lane; a host that refuses it is one for the others all the same."""
        try:
            if not state.registered:
                await self._register(state, host)
                return
            workers = await host.workers(state.group)
            if self._is_current(state):
                await self._update(state, workers, host)
        except UnavailableError as error:
            if error.reason != REFUSED:
                raise
            if self._is_current(state):
                self._set_error(state, error, settled=True)
                state.register_later()

    async def _register(self, state: WorkerState, host: WorkerHost) -> None:
        if not (self._is_current(state) and state.is_due):
            return
        await host.register(state.group)
        state.registered = True
        state.clock.restart()
        if not self._is_current(state):  # it was released meanwhile
            await self.unregister([state])

    async def _update(self, state: WorkerState, workers: Sequence[WorkerStatus], host: WorkerHost) -> None:
        """Acts on the state of a lane's workers; a question to one of them goes on beside this."""
        ready = ready_pids(workers)
        self._metrics.worker_restarts.labels(state.deployment.model).inc(len(state.pids - ready))
        if not ready:
            await self._note_missing(state, workers, host)
            return
        state.note_ready(ready)
        state.prober.probe_if_due()
        self._set_error(state, self._silence_error(state) or state.prober.error, settled=state.prober.certain)

    async def _note_missing(self, state: WorkerState, workers: Sequence[WorkerStatus], host: WorkerHost) -> None:
        worker = state.worker
        if state.note_missing():
            self._report(f"{worker} died")
        reason, died = "is starting", state.clock.died_while_starting(workers)
        if died:
            reason = "died while it started; the server's log has its last words"
            self._metrics.worker_restarts.labels(state.deployment.model).inc()
            self._report(f"{worker} died while it started")
        error = UnavailableError(f"the {worker} {reason}", reason="WORKER_STARTING")
        self._set_error(state, error, settled=died)
        await self._check_start_time(state, host)

    async def _check_start_time(self, state: WorkerState, host: WorkerHost) -> None:
        """Reports a slow start from time to time; once it has taken too long, the model alone is started again."""
        waited = state.clock.waited_s
        if state.clock.is_slow():
            self._report(f"{state.worker} is not ready after {waited:.0f} s")
        if waited > state.group.settings.start_timeout:
            _log.error("model registered again", model=state.group.name, not_ready_for_s=round(waited))
            await host.unregister(state.group)
            await host.register(state.group)
            state.reset()
            state.registered = True

    def _new_state(self, deployment: Deployment, group: WorkerGroup) -> WorkerState:
        async def verdict() -> ProponentError | None:
            return await self._worker.verdict(deployment, group.lane, self._settings.probe_timeout)

        return WorkerState(deployment, group, Prober(deployment.model, verdict))

    def _worker_memory(self, model: str) -> int:
        states = (state for (name, _), state in self._states.items() if name == model)
        return sum(resident_bytes(pid) for state in states for pid in state.pids)

    def _is_current(self, state: WorkerState) -> bool:
        """Whether its deployment still takes requests; what is found out about another one counts for nothing."""
        return self._states.get((state.deployment.model, state.group.lane)) is state

    def _set_error(self, state: WorkerState, error: ProponentError | None, *, settled: bool = False) -> None:
        if not self._is_current(state):
            return
        model, lane = self._models[state.deployment.model], state.group.lane
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

    def _silence_error(self, state: WorkerState) -> ProponentError | None:
        """The error of workers that all have stopped to give signs of life."""
        seconds = min(silence_s(self._root / LIVENESS, pid) for pid in state.pids)
        if seconds <= SILENT_S:
            return None
        message = f"the {state.worker} gave no sign of life for {seconds:.0f} s"
        return UnavailableError(message, reason="WORKER_UNRESPONSIVE")

    def _report(self, event: str) -> None:
        _log.error(event, **last_words(self._root))
