"""The order of a switch: check, point, route, drain, remove; and nothing of it when any check fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import FakeWorker, echo, sealed_bundle
from proponent.errors import CorruptBundleError, MismatchError, NotFoundError, ProponentError, UnavailableError
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.hosting.host import WorkerGroup, WorkerStatus
from proponent.gateway.hosting.worker_state import Prober, WorkerState
from proponent.gateway.lane import Lane
from proponent.gateway.metrics import Metrics
from proponent.gateway.rollout.switch import Rollout
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.index.lock import changing
from proponent.index.store import Store
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

READY = [WorkerStatus("9000", 11, "READY")]


async def never() -> None:
    raise AssertionError("nothing is asked")


class FakeHost:
    """Supervisor and host in one; notes in ``log`` what is done, and by then which version is routed to."""

    def __init__(self, directory: Path, model: ServedModel) -> None:
        self.log: list[tuple[str, str, str]] = []
        self.lanes: list[tuple[str, str]] = []
        self.workers_seen: list[list[WorkerStatus]] = []
        self._directory = directory
        self._model = model
        groups = self.groups(model.deployment)
        self._states = self._watch(model.deployment, groups)
        self.running = [(group.name, group.version) for group in groups]

    @property
    def host(self) -> FakeHost:
        return self

    def groups(self, deployment: Deployment) -> list[WorkerGroup]:
        version, settings = deployment.version, Settings(store=self._directory, start_timeout=0.6)
        return [WorkerGroup("toy", version, lane, Path(), None, settings) for lane in deployment.lanes]

    def adopt(self, deployment: Deployment, groups: list[WorkerGroup]) -> list[WorkerState]:
        before, self._states = self._states, self._watch(deployment, groups)
        return before

    def _watch(self, deployment: Deployment, groups: list[WorkerGroup]) -> list[WorkerState]:
        return [WorkerState(deployment, group, Prober("toy", never)) for group in groups]

    async def register(self, group: WorkerGroup) -> None:
        self.running.append((group.name, group.version))
        self._note("register", group.name, group.version)

    async def workers(self, group: WorkerGroup) -> list[WorkerStatus]:
        return self.workers_seen.pop(0) if self.workers_seen else READY

    async def unregister(self, groups: WorkerGroup | list[WorkerState]) -> None:
        for group in [state.group for state in groups] if isinstance(groups, list) else [groups]:
            self.running.remove((group.name, group.version))
            self._note("unregister", group.name, group.version)

    def _note(self, what: str, model: str, version: str) -> None:
        """Of the lane of predictions what it does otherwise than that of explanations."""
        entry = (what, version, self._model.deployment.version if self._model.readable else "")
        self.lanes.append((what, model))
        if model == "toy":
            self.log.append(entry)


class Rig:
    """A rollout over fakes, serving the first of two bundles."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "store")
        self.first, self.second = (sealed_bundle(self.store, note).name for note in ("1", "2"))
        self.store.set_current("toy", self.first)
        self.model = ServedModel("toy", BundleHandle.open(self.store.current("toy")))
        self.model.set_error(None)
        self.host = FakeHost(directory, self.model)
        self.worker = FakeWorker()
        self.worker.handle = self.answer
        self.metrics = Metrics()
        self.metrics.serve_bundle("toy", self.first, 0.0, lambda: 0.0)
        tools: Any = (self.host, self.worker, self.metrics)
        self.rollout = Rollout(self.store, {"toy": self.model}, *tools)

    def answer(self, request: WorkerRequest) -> WorkerReply:
        if request.WhichOneof("call") is None:
            return WorkerReply()
        reply = echo(request)
        getattr(reply, request.WhichOneof("call")).bundle_digest = self.worker.deployments[-1].manifest.digest
        return reply

    def fail(self, kind: type[ProponentError]) -> ProponentError:
        """Publishes the second bundle in vain."""
        with pytest.raises(kind) as caught:
            asyncio.run(self.rollout.roll_out("toy", self.second))
        return caught.value

    def assert_untouched(self) -> None:
        assert self.store.pointer("toy") == {"digest": self.first}
        assert self.model.serves(self.first)
        assert self.model.deployment.bundle.catalog.count() == 20
        assert sorted(self.host.running) == lanes("1.0")
        with changing(self.store, "toy"):
            pass


def lanes(version: str) -> list[tuple[str, str]]:
    return sorted((lane.served_as("toy"), version) for lane in Lane)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.model.close()


def test_requests_move_before_the_old_version_goes(rig: Rig) -> None:
    done = asyncio.run(rig.rollout.roll_out("toy", rig.second[:8]))
    assert (done.before, done.after) == (rig.first, rig.second)
    assert rig.host.log == [("register", "2.0", "1.0"), ("unregister", "1.0", "2.0")]
    assert rig.store.pointer("toy") == {"digest": rig.second, "previous": rig.first}
    assert sorted(rig.host.running) == lanes("2.0")
    shown = rig.metrics.exposition()[0].decode()
    assert f'digest="{rig.second}"' in shown and rig.first not in shown
    assert 'bundle_switches_total{model="toy",operation="publish",outcome="ok"} 1.0' in shown
    assert asyncio.run(rig.rollout.rollback("toy")).after == rig.first
    assert rig.model.deployment.version == "3.0" and rig.rollout.status()["toy"]["digest"] == rig.first


def test_both_lanes_move_at_once_and_go_together(rig: Rig) -> None:
    asyncio.run(rig.rollout.roll_out("toy", rig.second))
    done = ["register"] * 2 + ["unregister"] * 2
    assert rig.host.lanes == list(zip(done, ["toy~predictions", "toy"] * 2, strict=True))
    asked = [request.WhichOneof("call") for request, _ in rig.worker.asked]
    assert asked == [None, "predict", None, "explain"]


@pytest.mark.parametrize("call", ["predict", "explain"])
def test_a_bundle_that_one_lane_cannot_serve_is_served_by_none(rig: Rig, call: str) -> None:
    def refuse(request: WorkerRequest) -> WorkerReply:
        if request.WhichOneof("call") == call:
            raise UnavailableError("no")
        return rig.answer(request)

    rig.worker.handle = refuse
    rig.fail(UnavailableError)
    assert [name for what, name in rig.host.lanes if what == "unregister"] == ["toy~predictions", "toy"]
    rig.assert_untouched()


def test_the_old_version_stays_until_its_last_answer(rig: Rig) -> None:
    async def run() -> None:
        old = rig.model.deployment
        with old.in_use():
            publishing = asyncio.create_task(rig.rollout.roll_out("toy", rig.second))
            while rig.model.deployment is old:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert [entry[0] for entry in rig.host.log] == ["register"] and not publishing.done()
            assert old.bundle.catalog.count() == 20
        await publishing
        assert rig.host.log[-1][:2] == ("unregister", "1.0")

    asyncio.run(run())


def test_what_is_served_already_is_only_made_current(rig: Rig) -> None:
    rig.store.set_current("toy", rig.second)
    asyncio.run(rig.rollout.roll_out("toy", rig.first))
    assert not rig.host.log and rig.store.pointer("toy")["digest"] == rig.first
    assert asyncio.run(rig.rollout.roll_out("toy")).after == rig.first
    assert rig.model.serves(rig.first)


def test_a_damaged_bundle_never_reaches_a_host(rig: Rig) -> None:
    (rig.store.bundles("toy") / rig.second / "rows.faiss").write_text("3")
    assert rig.fail(CorruptBundleError).field == "rows.faiss"
    assert not rig.host.log
    rig.assert_untouched()


@pytest.mark.parametrize("error", [MismatchError("weights"), CorruptBundleError("rows"), UnavailableError("died")])
def test_a_worker_that_refuses_its_bundle_is_removed(rig: Rig, error: ProponentError) -> None:
    def refuse(request: WorkerRequest) -> WorkerReply:
        raise error

    rig.worker.handle = refuse
    assert rig.fail(type(error)) is error
    assert rig.host.log == [("register", "2.0", "1.0"), ("unregister", "2.0", "1.0")]
    rig.assert_untouched()


def test_a_worker_with_another_bundle_is_removed(rig: Rig) -> None:
    rig.worker.handle = echo_or_empty
    assert "answers with bundle" in rig.fail(MismatchError).message
    rig.assert_untouched()


def echo_or_empty(request: WorkerRequest) -> WorkerReply:
    return echo(request) if request.WhichOneof("call") else WorkerReply()


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ([[WorkerStatus("9001", 21, "UNLOADED")], [WorkerStatus("9001", 22, "UNLOADED")]], "died while it started"),
        ([[WorkerStatus("9001", 21, "UNLOADED")]] * 9, "not ready within 0.6 s"),
    ],
)
def test_a_worker_that_does_not_start_is_removed(rig: Rig, seen: list[list[WorkerStatus]], message: str) -> None:
    rig.host.workers_seen = seen
    assert message in rig.fail(UnavailableError).message
    assert rig.host.log[-1] == ("unregister", "2.0", "1.0")
    rig.assert_untouched()


def test_a_pointer_that_cannot_be_moved_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.store, "set_current", fail)
    assert rig.fail(ProponentError).reason == "STORAGE"
    assert rig.host.log[-1] == ("unregister", "2.0", "1.0")
    rig.assert_untouched()


def test_unknown_names_are_said(rig: Rig) -> None:
    for run in (rig.rollout.roll_out("other"), rig.rollout.rollback("other")):
        with pytest.raises(NotFoundError, match="does not serve model 'other'"):
            asyncio.run(run)
    with pytest.raises(NotFoundError, match="names 0 bundles"):
        asyncio.run(rig.rollout.roll_out("toy", "ffffffff"))
    with pytest.raises(NotFoundError, match="no bundle to roll back to"):
        asyncio.run(rig.rollout.rollback("toy"))
    rig.assert_untouched()


def test_a_bundle_that_becomes_readable_is_taken_up_and_nothing_is_written(rig: Rig) -> None:
    """As when a damaged file is put back, or a mode is mended, on a store that is mounted read-only."""
    manifest = rig.store.current("toy") / "manifest.json"
    content, error = manifest.read_bytes(), CorruptBundleError("manifest")
    rig.model.close()
    rig.model.set_error(error)
    rig.model._deployment = error
    manifest.write_bytes(content[:-9])

    async def run() -> None:
        with pytest.raises(CorruptBundleError):
            await rig.rollout.serve_current("toy", "repair")
        assert not rig.model.readable and not rig.host.log
        manifest.write_bytes(content)
        before = sorted(rig.store.root.rglob("*"))
        rig.host._states = []
        await rig.rollout.serve_current("toy", "repair")
        assert rig.model.deployment.manifest.digest == rig.first
        assert rig.model.readable and sorted(rig.store.root.rglob("*")) == before

    asyncio.run(run())
    assert [entry[0] for entry in rig.host.log] == ["register"]
