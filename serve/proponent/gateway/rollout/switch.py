"""Takes new bundles into service: model and bundle switch together, and no request notices.

The new pair is checked in full beside the old one. Until it has answered, nothing has changed; then the store's
pointer moves and requests go to the new version; the old one finishes what it is answering and is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from math import nan
from pathlib import Path

import structlog

from proponent.errors import NotFoundError, ProponentError
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.hosting.supervisor import Supervisor
from proponent.gateway.hosting.worker_client import WorkerClient
from proponent.gateway.hosting.worker_state import WorkerState
from proponent.gateway.metrics import Metrics
from proponent.gateway.rollout.candidate import candidate
from proponent.gateway.rollout.control_client import NOT_SERVED
from proponent.gateway.served_model import ServedModel
from proponent.index.faults import fault_point
from proponent.index.lifecycle import check_bundle, current_digest, find_bundle, previous_digest
from proponent.index.lock import changing
from proponent.index.storage import unreadable
from proponent.index.store import Store, check_model_name

_log = structlog.get_logger("proponent.gateway")


@dataclass(frozen=True)
class SwitchResult:
    """What a switch did.

    Attributes:
        before: Digest that the pointer named before; None where it named none.
        after: Digest that is served now.
        seconds: From the request to the first request that the new pair may answer.
        drained_seconds: From there until the old version was removed.
    """

    model: str
    before: str | None
    after: str
    seconds: float
    drained_seconds: float


class Rollout:
    """Publishes and rolls back, one at a time for each model."""

    def __init__(
        self,
        store: Store,
        models: Mapping[str, ServedModel],
        supervisor: Supervisor,
        worker: WorkerClient,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._models = models
        self._supervisor = supervisor
        self._worker = worker
        self._metrics = metrics
        self._locks = defaultdict[str, asyncio.Lock](asyncio.Lock)

    def lock(self, name: str) -> asyncio.Lock:
        """Held by whoever changes which bundle of a model is served, or whether it is."""
        return self._locks[name]

    async def roll_out(self, name: str, digest: str | None = None) -> SwitchResult:
        """Serves the bundle whose digest begins so, and makes it current; without one, the bundle that is current.

        Raises:
            NotFoundError: This gateway does not serve the model, or there is no such bundle.
            ProponentError: Why the bundle cannot be served; what was served before still is.
        """
        async with self._locks[name]:
            model = self._model(name)
            with self._counted(name, "publish"):
                return await self._roll_out(model, digest or str(self._store.pointer(name)["digest"]))

    async def rollback(self, name: str) -> SwitchResult:
        """Serves the bundle that was current before; doing it twice undoes it.

        Raises:
            NotFoundError: This gateway does not serve the model, or there was none.
            ProponentError: See ``roll_out``.
        """
        async with self._locks[name]:
            model = self._model(name)
            with self._counted(name, "rollback"):
                return await self._roll_out(model, previous_digest(self._store, name))

    async def serve_current(self, name: str, operation: str) -> None:
        """Serves the bundle that the store says is current; the store is not written to.

        Args:
            name: Of the model.
            operation: What this counts as.

        Raises:
            ProponentError: Why it cannot be served.
        """
        async with self._locks[name]:
            model = self._model(name)
            with self._counted(name, operation):
                try:
                    bundle = await asyncio.to_thread(self._store.current, name)
                    old = await self._switch(model, bundle, set_current=False)
                except OSError as error:
                    raise unreadable(error) from error
            _log.info("bundle taken up", model=name, bundle=bundle.name)
            if old:
                await self._retire(old)

    async def catch_up(self) -> None:
        """Serves what became current while another gateway of the store took the commands."""
        for name, model in list(self._models.items()):
            try:
                if model.readable and model.deployment.manifest.digest != current_digest(self._store, name):
                    await self.roll_out(name)
            except ProponentError as error:
                _log.error("the current bundle cannot be served", model=name, reason=error.reason, why=error.message)

    def status(self) -> dict[str, dict[str, str | bool]]:
        """For each model the digest served, and whether it is ready or why not."""
        return {name: _status(model) for name, model in self._models.items()}

    def _model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise NotFoundError(
                f"the running gateway does not serve model {name!r} (models: {', '.join(self._models)})",
                field="model",
                reason=NOT_SERVED,
            )
        return self._models[name]

    async def _roll_out(self, model: ServedModel, digest: str) -> SwitchResult:
        started = time.monotonic()
        with changing(self._store, model.name):
            bundle = find_bundle(self._store, model.name, digest)
            before = current_digest(self._store, model.name)
            old = await self._switch(model, bundle, set_current=True)
        switched = time.monotonic()
        _log.info("bundle published", model=model.name, before=before, after=bundle.name)
        if old:
            await self._retire(old)
        drained = time.monotonic() - switched
        return SwitchResult(model.name, before, bundle.name, round(switched - started, 3), round(drained, 3))

    async def _switch(self, model: ServedModel, bundle: Path, *, set_current: bool) -> list[WorkerState]:
        """Makes a bundle take the requests; returns the lanes of the deployment that took them before, if another."""
        handle = await asyncio.to_thread(open_checked, bundle, model.name)
        with ExitStack() as undo:
            undo.callback(handle.catalog.close)
            if model.serves(handle.manifest.digest):
                if set_current:
                    await self._set_current(model.name, bundle.name)
                return []
            deployment = model.prepare(handle)
            groups, host = self._supervisor.groups(deployment), self._supervisor.host
            async with candidate(deployment, groups, host, self._worker, groups[0].settings.start_timeout):
                if set_current:
                    await self._set_current(model.name, bundle.name)
                show_bundle(self._metrics, deployment)
                model.switch(deployment)
                old = self._supervisor.adopt(deployment, groups)
            undo.pop_all()
        return old

    async def _set_current(self, model: str, digest: str) -> None:
        await asyncio.to_thread(self._store.set_current, model, digest)
        fault_point("switch.pointed")

    @contextmanager
    def _counted(self, model: str, operation: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._metrics.switched(model, operation, "failed")
            raise
        self._metrics.switched(model, operation, "ok")

    async def _retire(self, old: Sequence[WorkerState]) -> None:
        """Lets a deployment finish what it is answering, then removes all its lanes."""
        [deployment] = {state.deployment for state in old}
        await deployment.idle()
        deployment.close()
        fault_point("switch.drained")
        await self._supervisor.unregister(old)


def show_bundle(metrics: Metrics, deployment: Deployment) -> None:
    """Shows in the metrics what a model is served with from now on."""
    manifest, tombstones = deployment.manifest, deployment.bundle.tombstones

    def forgotten() -> float:
        try:
            return len(tombstones.ids())
        except ProponentError:
            return nan

    try:
        created = datetime.fromisoformat(manifest.created).timestamp()
    except ValueError:
        created = nan
    metrics.serve_bundle(deployment.model, manifest.digest, created, forgotten)


def open_checked(bundle: Path, model: str) -> BundleHandle:
    """Opens a bundle after checking every file of it; raises CorruptBundleError, InvalidInputError."""
    check_model_name(model)
    check_bundle(bundle, model)
    return BundleHandle.open(bundle)


def _status(model: ServedModel) -> dict[str, str | bool]:
    served = {"digest": model.deployment.manifest.digest} if model.readable else {}
    return {**served, "ready": model.error is None, "reason": "" if model.error is None else model.error.reason}
