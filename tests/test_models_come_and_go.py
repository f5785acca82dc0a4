"""Models come and go while the gateway runs: each is heard of at once, and none takes another with it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import SHAPE, FakeWorker, echo, sealed_bundle
from proponent.errors import CorruptBundleError, NotFoundError, ProponentError, UnavailableError
from proponent.gateway.auth import Caller
from proponent.gateway.auth.authenticator import authenticator_of
from proponent.gateway.auth.caller import Scope
from proponent.gateway.call import CallContext
from proponent.gateway.hosting.host import WorkerGroup, WorkerStatus
from proponent.gateway.hosting.supervisor import Supervisor
from proponent.gateway.lane import Lane
from proponent.gateway.metrics import Metrics
from proponent.gateway.privacy.gate import gate_of
from proponent.gateway.rollout.control_client import NOT_SERVED
from proponent.gateway.rollout.membership import Membership
from proponent.gateway.rollout.reconciliation import GONE_AFTER, Reconciliation
from proponent.gateway.rollout.switch import Rollout
from proponent.gateway.served_model import Readiness, open_models
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.index.store import Store
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

CONTEXT = CallContext(caller=Caller("me", frozenset(Scope), DisclosureLevel.FULL))
BOTH = ["toy", "toy~predictions"]


class Host:
    """A host whose workers are ready at once, unless their model is held back."""

    def __init__(self) -> None:
        self.ended = False
        self.groups: list[tuple[str, str]] = []
        self.held_back: set[str] = set()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(0.01)

    async def register(self, group: WorkerGroup) -> None:
        assert (group.name, group.version) not in self.groups
        await asyncio.sleep(0.01)
        self.groups.append((group.name, group.version))

    async def unregister(self, group: WorkerGroup) -> None:
        self.groups.remove((group.name, group.version))

    async def workers(self, group: WorkerGroup) -> list[WorkerStatus]:
        return [WorkerStatus("1", 1, "UNLOADED" if group.model in self.held_back else "READY")]

    def names(self) -> list[str]:
        return sorted(name for name, _ in self.groups)


class Worker(FakeWorker):
    """Says that it is well, and answers with the digest of its deployment."""

    def connect(self, host: Host, tickets: object) -> None:
        self.handle = self.answer

    def disconnect(self) -> None:
        return None

    def answer(self, request: WorkerRequest) -> WorkerReply:
        if request.WhichOneof("call") is None:
            return WorkerReply()
        reply = echo(request)
        getattr(reply, request.WhichOneof("call")).bundle_digest = self.deployments[-1].manifest.digest
        return reply


class Gateway:
    """All of a gateway but its transports and its host, on a store of toy bundles."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.store = Store(root)
        self.settings = Settings(store=root, **settings)
        self.models = open_models(self.settings)
        self.worker, self.host, self.metrics = Worker(), Host(), Metrics()
        worker: Any = self.worker
        self.readiness = Readiness(self.models)
        tools = (authenticator_of(self.settings), gate_of(self.settings))
        self.calls = ExplanationCalls(self.models, worker, self.settings, self.metrics, *tools)
        self.supervisor = Supervisor(self.models, worker, self.open, self.settings, self.metrics, self.changed)
        self.rollout = Rollout(self.store, self.models, self.supervisor, worker, self.metrics)
        parts = (self.supervisor, self.settings, self.metrics, self.changed, self.calls.forget)
        self.membership = Membership(self.models, self.rollout, *parts)
        self.reconciliation = Reconciliation(
            self.models, self.membership, self.rollout, self.store, watches=self.settings.watch
        )

    @asynccontextmanager
    async def open(self, root: Path, settings: Settings) -> AsyncIterator[Host]:
        yield self.host

    def changed(self) -> None:
        self.readiness.error()  # as the gateway does, for the health of gRPC

    def bundle(self, note: str, model: str = "toy") -> str:
        """A bundle that is current from now on."""
        digest = sealed_bundle(self.store, note, model).name
        self.store.set_current(model, digest)
        return digest

    async def predict(self, model: str = "toy") -> str:
        tensor = pb.Tensor(shape=SHAPE, dtype="float32", data=bytes(16))
        reply = await self.calls.predict(pb.PredictRequest(model=model, tensor=tensor), CONTEXT)
        return reply.bundle_digest

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.01)

    async def looks(self, number: int) -> None:
        for _ in range(number):
            await self.reconciliation.step()
            await asyncio.sleep(0.02)

    def ready(self, model: str = "toy") -> bool:
        return model in self.models and self.models[model].error is None

    def shown(self) -> str:
        return self.metrics.exposition()[0].decode()


def run(root: Path, test: Callable[[Gateway], Awaitable[None]], **settings: Any) -> None:
    """A test on a gateway that serves the model "first"."""
    store = Store(root)
    store.set_current("first", sealed_bundle(store, "1", "first").name)

    async def inside() -> None:
        gateway = Gateway(root, **settings)
        supervising = asyncio.create_task(gateway.supervisor.run())
        try:
            async with asyncio.timeout(30):
                await gateway.until(lambda: gateway.ready("first"))
                await test(gateway)
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
            for model in gateway.models.values():
                model.close()

    asyncio.run(inside())


def test_a_model_comes_and_goes_without_a_word_to_the_others(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        digest = gateway.bundle("2")
        with pytest.raises(NotFoundError):
            await gateway.predict()
        loaded = await gateway.membership.load("toy")
        assert (loaded.digest, loaded.was_served) == (digest, False)
        assert await gateway.predict() == digest
        assert (await gateway.membership.load("toy")).was_served
        assert 'model="toy"' in gateway.shown()
        gone = await gateway.membership.unload("toy")
        assert gone.was_served and gateway.readiness.error() is None
        with pytest.raises(NotFoundError) as caught:
            await gateway.predict()
        assert caught.value.reason == "MODEL_UNKNOWN"
        assert 'model="toy"' not in gateway.shown() and 'model="first"' in gateway.shown()
        assert gateway.host.names() == ["first", "first~predictions"]
        assert not [key for key in gateway.calls._admission._lanes if key[0] == "toy"]
        assert not (await gateway.membership.unload("toy")).was_served
        assert await gateway.predict("first")

    run(tmp_path, test)


def test_what_a_model_was_asked_before_it_went_is_answered(tmp_path: Path) -> None:
    """Also what waits in line, which no worker has seen yet."""

    async def test(gateway: Gateway) -> None:
        digest = gateway.bundle("2")
        await gateway.membership.load("toy")
        gateway.worker.hold = asyncio.Event()
        calls = [asyncio.create_task(gateway.predict()) for _ in range(3)]
        await gateway.until(lambda: gateway.calls._admission.of("toy", Lane.PREDICTIONS).taken)
        unloading = asyncio.create_task(gateway.membership.unload("toy"))
        await gateway.until(lambda: "toy" not in gateway.models)
        await asyncio.sleep(0.1)
        assert not unloading.done() and set(BOTH) <= set(gateway.host.names())
        gateway.worker.hold.set()
        assert await asyncio.gather(*calls) == [digest] * 3
        await unloading
        assert not set(BOTH) & set(gateway.host.names()) and 'model="toy"' not in gateway.shown()

    run(tmp_path, test, model_settings={"toy": {"max_predictions": 1}})


def test_a_model_that_comes_again_while_it_drains_is_another_one(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        first = gateway.bundle("2")
        await gateway.membership.load("toy")
        gateway.worker.hold = hold = asyncio.Event()
        call = asyncio.create_task(gateway.predict())
        await gateway.until(lambda: gateway.calls._admission.of("toy", Lane.PREDICTIONS).taken)
        unloading = asyncio.create_task(gateway.membership.unload("toy"))
        await gateway.until(lambda: "toy" not in gateway.models)
        gateway.worker.hold = None
        second = gateway.bundle("3")
        assert (await gateway.membership.load("toy")).digest == second
        assert [version for name, version in gateway.host.groups if name == "toy"] == ["1.0", "2.0"]
        hold.set()
        await unloading
        await call
        assert await gateway.predict() == second != first
        assert [version for name, version in gateway.host.groups if name == "toy"] == ["2.0"]
        assert f'digest="{second}"' in gateway.shown()

    run(tmp_path, test)


def test_a_model_can_be_removed_while_it_starts(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.host.held_back.add("toy")
        gateway.bundle("2")
        loading = asyncio.create_task(gateway.membership.load("toy"))
        await gateway.until(lambda: "toy" in gateway.models)
        with pytest.raises(UnavailableError) as caught:
            await gateway.predict()
        assert caught.value.reason == "WORKER_STARTING" and gateway.readiness.error() is None
        await gateway.membership.unload("toy")
        with pytest.raises(NotFoundError):
            await loading
        await gateway.until(lambda: gateway.host.names() == ["first", "first~predictions"])

    run(tmp_path, test)


def test_a_model_that_cannot_start_says_why_and_starts_once_mended(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        digest = gateway.bundle("2")
        rows = gateway.store.current("toy") / "rows.faiss"
        content = rows.read_bytes()
        rows.write_bytes(b"half")
        with pytest.raises(CorruptBundleError):
            await gateway.membership.load("toy")
        with pytest.raises(CorruptBundleError):
            await gateway.predict()
        assert gateway.readiness.error() is None and await gateway.predict("first")
        rows.write_bytes(content)
        await gateway.looks(3)
        await gateway.until(gateway.ready)
        assert await gateway.predict() == digest

    run(tmp_path, test)


def test_what_is_not_in_the_store_is_neither_loaded_nor_unloaded(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        for command in (gateway.membership.load, gateway.membership.unload):
            with pytest.raises(NotFoundError):
                await command("toy")
        assert list(gateway.models) == ["first"]

    run(tmp_path, test)


def test_the_first_publish_of_a_model_serves_it(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        bundle = sealed_bundle(gateway.store, "2", "toy")
        done = await gateway.membership.publish("toy", bundle.name)
        assert (done.before, done.after) == (None, bundle.name) and await gateway.predict() == bundle.name
        await gateway.membership.unload("toy")
        with pytest.raises(NotFoundError) as caught:
            await gateway.membership.publish("toy", bundle.name)
        assert caught.value.reason == NOT_SERVED and "toy" not in gateway.models

    run(tmp_path, test)


def test_a_model_that_was_not_asked_for_is_published_and_not_served(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        bundle = sealed_bundle(gateway.store, "2", "toy")
        with pytest.raises(NotFoundError) as caught:
            await gateway.membership.publish("toy", bundle.name)
        assert caught.value.reason == NOT_SERVED
        gateway.store.set_current("toy", bundle.name)
        await gateway.looks(2)
        assert "toy" not in gateway.models
        assert (await gateway.membership.load("toy")).digest == bundle.name

    run(tmp_path, test, models=["first"], watch=True)


def test_a_watched_store_is_followed(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        first = gateway.bundle("2")
        await gateway.looks(1)
        await gateway.until(gateway.ready)
        assert await gateway.predict() == first
        second = gateway.bundle("3")
        await gateway.looks(1)
        await gateway.until(lambda: gateway.models["toy"].deployment.manifest.digest == second)
        assert await gateway.predict() == second
        shutil.rmtree(gateway.store.directory("toy"))
        await gateway.looks(GONE_AFTER - 1)
        assert "toy" in gateway.models
        await gateway.looks(1)
        await gateway.until(lambda: gateway.host.names() == ["first", "first~predictions"])
        assert "toy" not in gateway.models

    run(tmp_path, test, watch=True)


def test_what_was_unloaded_stays_so_until_it_leaves_the_store_and_comes_back(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.membership.unload("first")
        await gateway.looks(3)
        assert not gateway.models and gateway.readiness.error().reason == "NO_MODEL"  # type: ignore[union-attr]
        aside = gateway.store.root.parent / "aside"
        gateway.store.directory("first").rename(aside)
        await gateway.looks(1)
        aside.rename(gateway.store.directory("first"))
        await gateway.looks(1)
        await gateway.until(lambda: gateway.ready("first"))

    run(tmp_path / "store", test, watch=True)


@pytest.mark.parametrize("stand_in", [False, True])
def test_a_store_that_vanishes_for_a_while_takes_no_model_with_it(tmp_path: Path, stand_in: bool) -> None:
    """Not there at all, or as an empty directory where a volume was mounted."""

    async def test(gateway: Gateway) -> None:
        await gateway.looks(1)
        gateway.store.root.rename(tmp_path / "aside")
        if stand_in:
            gateway.store.root.mkdir()
        await gateway.looks(3 * GONE_AFTER)
        assert await gateway.predict("first")
        if stand_in:
            gateway.store.root.rmdir()
        (tmp_path / "aside").rename(gateway.store.root)
        gateway.bundle("2")
        await gateway.looks(1)
        await gateway.until(gateway.ready)

    run(tmp_path / "store", test, watch=True)


def test_a_pointer_that_cannot_be_read_takes_no_model_away(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        pointer = gateway.store.directory("first") / "current"
        content = pointer.read_bytes()
        pointer.write_bytes(content[:5])
        await gateway.looks(2 * GONE_AFTER)
        assert await gateway.predict("first")

    run(tmp_path, test, watch=True)


def test_a_model_that_is_copied_in_is_served_once_it_is_whole(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        digest = sealed_bundle(gateway.store, "2").name
        bundles = gateway.store.bundles("toy")
        shutil.move(bundles / digest, tmp_path / "aside")
        gateway.store.point("toy", digest)
        (bundles / digest).mkdir()
        for name in ("manifest.json", "catalog.sqlite"):
            shutil.copy(tmp_path / "aside" / name, bundles / digest)
        await gateway.looks(1)
        await gateway.until(lambda: "toy" in gateway.models)
        with pytest.raises(UnavailableError) as caught:
            await gateway.predict()
        assert caught.value.reason == "BUNDLE_CORRUPT"
        shutil.copytree(tmp_path / "aside", bundles / digest, dirs_exist_ok=True)
        while not gateway.ready():
            await gateway.looks(1)
        assert await gateway.predict() == digest

    run(tmp_path / "store", test, watch=True)


def test_a_name_that_no_model_can_have_is_told_and_never_reaches_the_host(tmp_path: Path) -> None:
    async def test(gateway: Gateway) -> None:
        shutil.copytree(gateway.store.directory("first"), gateway.store.directory("Odd name"))
        await gateway.looks(1)
        await gateway.until(lambda: "Odd name" in gateway.models)
        with pytest.raises(ProponentError) as caught:
            await gateway.predict("Odd name")
        assert caught.value.reason == "MODEL_NAME_INVALID"
        assert gateway.host.names() == ["first", "first~predictions"] and await gateway.predict("first")

    run(tmp_path, test, watch=True)


def test_a_model_that_was_asked_for_and_is_not_there_keeps_no_other_from_serving(tmp_path: Path) -> None:
    """It says so, and is served once it is there."""

    async def test(gateway: Gateway) -> None:
        assert gateway.readiness.error() is None and await gateway.predict("first")
        with pytest.raises(UnavailableError, match="no bundle for model 'toy'"):
            await gateway.predict()
        digest = gateway.bundle("2")
        await gateway.looks(1)
        await gateway.until(gateway.ready)
        assert await gateway.predict() == digest

    run(tmp_path, test, models=["first", "toy"])


def test_where_no_model_is_there_at_all_only_who_watches_waits(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_models(Settings(store=tmp_path))
    sealed_bundle(Store(tmp_path), "1")
    with pytest.raises(NotFoundError):
        open_models(Settings(store=tmp_path, models=("toy",)))
    assert open_models(Settings(store=tmp_path, watch=True)) == {}
    assert open_models(Settings(store=tmp_path, models=("toy",), watch=True)) == {}
