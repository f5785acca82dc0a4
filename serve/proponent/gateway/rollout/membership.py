"""Which models are served: they come and go while the gateway runs, each without a word to the others.

A model that comes is listed at once, and says that it is starting, or why it cannot, until its workers answer. One
that goes is unknown at once to whoever calls from then on; what was called before is answered, and then its workers
end and everything that was kept for it is freed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from proponent.errors import NotFoundError, ProponentError, UnavailableError
from proponent.gateway.deployment import BundleHandle
from proponent.gateway.hosting.supervisor import Supervisor
from proponent.gateway.hosting.worker_state import WorkerState
from proponent.gateway.metrics import Metrics
from proponent.gateway.rollout.control_client import NOT_SERVED
from proponent.gateway.rollout.switch import Rollout, SwitchResult, open_checked, show_bundle
from proponent.gateway.served_model import ServedModel, problem_of
from proponent.gateway.settings import Settings
from proponent.index.lifecycle import make_current
from proponent.index.store import Store

_POLL_S = 0.1
_log = structlog.get_logger("proponent.gateway")


@dataclass(frozen=True)
class LoadResult:
    """What was done to serve a model.

    Attributes:
        digest: Of the bundle that is served.
        was_served: Whether it was served already.
        seconds: Until it answered.
    """

    model: str
    digest: str
    was_served: bool
    seconds: float


@dataclass(frozen=True)
class UnloadResult:
    """What was done to serve a model no more.

    Attributes:
        was_served: Whether it was served.
        drained_seconds: Until the last call to it was answered and its workers were told to end.
    """

    model: str
    was_served: bool
    drained_seconds: float


class Membership:
    """Adds models to those that are served, and removes them.

    Args:
        models: Those that are served, by name; changed in place.
        rollout: Publishes, and keeps changes of one model apart.
        supervisor: Of their workers.
        settings: Of the gateway.
        metrics: Which show each model.
        on_change: Called after a model came or went.
        forget: Called with the name of a model that is gone, to free what is kept for it elsewhere.
    """

    def __init__(
        self,
        models: dict[str, ServedModel],
        rollout: Rollout,
        supervisor: Supervisor,
        settings: Settings,
        metrics: Metrics,
        on_change: Callable[[], None],
        forget: Callable[[str], None],
    ) -> None:
        self._models = models
        self._rollout = rollout
        self._supervisor = supervisor
        self._settings = settings
        self._metrics = metrics
        self._on_change = on_change
        self._forget = forget
        self._store = Store(settings.store)
        self._versions: dict[str, int] = {}
        self._unloaded: set[str] = set()
        self._drains: set[asyncio.Task[float]] = set()

    async def load(self, name: str) -> LoadResult:
        """Serves a model of the store, and waits until it answers; one that is served already stays as it is.

        Raises:
            NotFoundError: The store has no such model, or it was removed before it answered.
            ProponentError: Why it cannot answer; it is tried again, ever more rarely, until it can.
        """
        started = time.monotonic()
        added = await self.add(name)
        self._unloaded.discard(name)
        model = await self._answering(name)
        digest = model.deployment.manifest.digest
        return LoadResult(name, digest, not added, round(time.monotonic() - started, 3))

    async def unload(self, name: str) -> UnloadResult:
        """Serves a model no more, until it is loaded or the gateway starts anew; its files stay.

        Raises:
            NotFoundError: Neither the gateway nor the store has such a model.
        """
        if name not in self._models and name not in await asyncio.to_thread(self._store.models):
            raise NotFoundError(f"model {name!r} is neither served nor in {self._store.root}", field="model")
        self._unloaded.add(name)
        drain = await self.remove(name)
        seconds = 0.0 if drain is None else await asyncio.shield(drain)
        return UnloadResult(name, drain is not None, round(seconds, 3))

    async def publish(self, name: str, digest: str | None = None) -> SwitchResult:
        """Serves a bundle and makes it current; a model that is new to the gateway is served from then on.

        Raises:
            ProponentError: See ``Rollout.roll_out`` and ``load``.
        """
        if name in self._models or digest is None or not self.takes(name):
            return await self._rollout.roll_out(name, digest)
        started = time.monotonic()
        change = await asyncio.to_thread(make_current, self._store, name, digest)
        await self.load(name)
        return SwitchResult(name, change.before, change.after, round(time.monotonic() - started, 3), 0.0)

    def takes(self, name: str) -> bool:
        """Whether a model that comes to the store is to be served without a command."""
        asked_for = not self._settings.models or name in self._settings.models
        return asked_for and name not in self._unloaded

    async def add(self, name: str) -> bool:
        """Lists a model and lets its workers start; whether it was not listed before.

        Raises:
            NotFoundError: The store has no such model.
        """
        async with self._rollout.lock(name):
            if name in self._models:
                return False
            await asyncio.to_thread(self._store.pointer, name)
            model = self._models[name] = await asyncio.to_thread(self._opened, name)
            self._show(model)
            self._supervisor.watch(model)
        _log.info("model added", model=name, why=None if model.readable else str(model.error))
        self._on_change()
        return True

    async def remove(self, name: str) -> asyncio.Task[float] | None:
        """Makes a model unknown; returns its drain, which goes on by itself, or None where it was unknown before."""
        async with self._rollout.lock(name):
            model = self._models.pop(name, None)
            if model is None:
                return None
            self._versions[name] = model.versions
            states = self._supervisor.release(name)
        _log.info("model removed", model=name)
        self._on_change()
        drain = asyncio.create_task(self._drain(model, states))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)
        return drain

    def keep_commands(self, stored: Collection[str]) -> None:
        """Lets a model that was unloaded, and is not among those of the store, come back like any other."""
        self._unloaded.intersection_update(stored)

    async def _drain(self, model: ServedModel, states: list[WorkerState]) -> float:
        """Lets a model that is unknown by now answer what it was asked; seconds that it took."""
        started = time.monotonic()
        if model.readable:
            await model.deployment.idle()
        await self._supervisor.unregister(states)
        model.close()
        if model.name not in self._models:
            self._forget(model.name)
            self._metrics.remove_model(model.name)
        seconds = time.monotonic() - started
        _log.info("model drained", model=model.name, seconds=round(seconds, 3))
        return seconds

    def _opened(self, name: str) -> ServedModel:
        """The model, of which every file was checked: it may still be on its way into the store."""
        settings = self._settings.of(name)
        bundle: BundleHandle | ProponentError
        try:
            bundle = open_checked(self._store.current(name), name)
        except (ProponentError, OSError) as error:
            bundle = problem_of(error)
        return ServedModel(name, bundle, settings.weights, settings.lanes, self._versions.get(name, 0))

    def _show(self, model: ServedModel) -> None:
        self._metrics.add_model(model.name)
        if model.readable:
            show_bundle(self._metrics, model.deployment)

    async def _answering(self, name: str) -> ServedModel:
        """The model once it answers; raises why it does not."""
        limit = time.monotonic() + self._settings.of(name).start_timeout
        while (model := self._models.get(name)) is not None and time.monotonic() < limit:
            if model.error is None:
                return model
            if not model.starting:
                raise model.error.with_traceback(None)
            await asyncio.sleep(_POLL_S)
        if model is None:
            raise NotFoundError(f"model {name!r} was removed before it answered", field="model", reason=NOT_SERVED)
        raise model.error or UnavailableError(f"model {name!r} did not answer in time", reason="WORKER_STARTING")
