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
from proponent.gateway.lane import Lane
from proponent.gateway.metrics import Metrics
from proponent.gateway.rollout.switch import Rollout
from proponent.gateway.served_model import ServedModel
from proponent.gateway.torchserve.archive import Archive
from proponent.gateway.torchserve.management import WorkerStatus
from proponent.gateway.torchserve.worker_state import Prober, WorkerState
from proponent.index.lock import changing
from proponent.index.store import Store
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

READY = [WorkerStatus("9000", 11, "READY")]


async def never() -> None:
    raise AssertionError("nothing is asked")


class FakeTorchServe:
    """Supervisor and management in one; notes in ``log`` what is done, and by then which version is routed to."""

    def __init__(self, directory: Path, model: ServedModel) -> None:
        self.log: list[tuple[str, str, str]] = []
        self.lanes: list[tuple[str, str]] = []
        self.workers_seen: list[list[WorkerStatus]] = []
        self._directory = directory
        self._model = model
        self._states = self._watch(model.deployment, self.write_archives(model.deployment))

    @property
    def management(self) -> FakeTorchServe:
        return self

    def write_archives(self, deployment: Deployment) -> list[Archive]:
        return [self._write_archive(lane, deployment.version) for lane in deployment.lanes]

    def _write_archive(self, lane: Lane, version: str) -> Archive:
        path = self._directory / f"{lane.served_as('toy')}-{version}"
        path.mkdir()
        return Archive(lane.served_as("toy"), version, path, lane)

    def adopt(self, deployment: Deployment, archives: list[Archive]) -> list[WorkerState]:
        before, self._states = self._states, self._watch(deployment, archives)
        return before

    def _watch(self, deployment: Deployment, archives: list[Archive]) -> list[WorkerState]:
        return [WorkerState(deployment, archive, Prober("toy", never)) for archive in archives]

    async def register(self, directory: str) -> None:
        model, _, version = directory.rpartition("-")
        self._note("register", model, version)

    async def workers(self, model: str, version: str) -> list[WorkerStatus]:
        return self.workers_seen.pop(0) if self.workers_seen else READY

    async def set_default(self, model: str, version: str) -> None:
        self._note("default", model, version)

    async def unregister(self, model: str, version: str) -> None:
        self._note("unregister", model, version)

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
        self.archives = directory / "archives"
        self.archives.mkdir()
        self.torchserve = FakeTorchServe(self.archives, self.model)
        self.worker = FakeWorker()
        self.worker.handle = self.answer
        self.metrics = Metrics()
        self.metrics.serve_bundle("toy", self.first, 0.0, lambda: 0.0)
        tools: Any = (self.torchserve, self.worker, self.metrics)
        self.rollout = Rollout(self.store, {"toy": self.model}, *tools, 0.6)

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
        assert sorted(path.name for path in self.archives.iterdir()) == archives("1.0")
        with changing(self.store, "toy"):
            pass


def archives(version: str) -> list[str]:
    return sorted(f"{lane.served_as('toy')}-{version}" for lane in Lane)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.model.close()


def test_requests_move_before_the_old_version_goes(rig: Rig) -> None:
    done = asyncio.run(rig.rollout.roll_out("toy", rig.second[:8]))
    assert (done.before, done.after) == (rig.first, rig.second)
    assert rig.torchserve.log == [("register", "2.0", "1.0"), ("default", "2.0", "2.0"), ("unregister", "1.0", "2.0")]
    assert rig.store.pointer("toy") == {"digest": rig.second, "previous": rig.first}
    assert sorted(path.name for path in rig.archives.iterdir()) == archives("2.0")
    shown = rig.metrics.exposition()[0].decode()
    assert f'digest="{rig.second}"' in shown and rig.first not in shown
    assert 'bundle_switches_total{model="toy",operation="publish",outcome="ok"} 1.0' in shown
    assert asyncio.run(rig.rollout.rollback("toy")).after == rig.first
    assert rig.model.deployment.version == "3.0" and rig.rollout.status()["toy"]["digest"] == rig.first


def test_both_lanes_move_at_once_and_go_together(rig: Rig) -> None:
    asyncio.run(rig.rollout.roll_out("toy", rig.second))
    done = ["register"] * 2 + ["default"] * 2 + ["unregister"] * 2
    assert rig.torchserve.lanes == list(zip(done, ["toy~predictions", "toy"] * 3, strict=True))
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
    assert [name for what, name in rig.torchserve.lanes if what == "unregister"] == ["toy~predictions", "toy"]
    rig.assert_untouched()


def test_the_old_version_stays_until_its_last_answer(rig: Rig) -> None:
    async def run() -> None:
        old = rig.model.deployment
        with old.in_use():
            publishing = asyncio.create_task(rig.rollout.roll_out("toy", rig.second))
            while rig.model.deployment is old:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert [entry[0] for entry in rig.torchserve.log] == ["register"] and not publishing.done()
            assert old.bundle.catalog.count() == 20
        await publishing
        assert rig.torchserve.log[-1][:2] == ("unregister", "1.0")

    asyncio.run(run())


def test_what_is_served_already_is_only_made_current(rig: Rig) -> None:
    rig.store.set_current("toy", rig.second)
    asyncio.run(rig.rollout.roll_out("toy", rig.first))
    assert not rig.torchserve.log and rig.store.pointer("toy")["digest"] == rig.first
    assert asyncio.run(rig.rollout.roll_out("toy")).after == rig.first
    assert rig.model.serves(rig.first)


def test_a_damaged_bundle_never_reaches_torchserve(rig: Rig) -> None:
    (rig.store.bundles("toy") / rig.second / "rows.faiss").write_text("3")
    assert rig.fail(CorruptBundleError).field == "rows.faiss"
    assert not rig.torchserve.log
    rig.assert_untouched()


@pytest.mark.parametrize("error", [MismatchError("weights"), CorruptBundleError("rows"), UnavailableError("died")])
def test_a_worker_that_refuses_its_bundle_is_removed(rig: Rig, error: ProponentError) -> None:
    def refuse(request: WorkerRequest) -> WorkerReply:
        raise error

    rig.worker.handle = refuse
    assert rig.fail(type(error)) is error
    assert rig.torchserve.log == [("register", "2.0", "1.0"), ("unregister", "2.0", "1.0")]
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
    rig.torchserve.workers_seen = seen
    assert message in rig.fail(UnavailableError).message
    assert rig.torchserve.log[-1] == ("unregister", "2.0", "1.0")
    rig.assert_untouched()


def test_a_pointer_that_cannot_be_moved_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.store, "set_current", fail)
    assert rig.fail(ProponentError).reason == "STORAGE"
    assert rig.torchserve.log[-1] == ("unregister", "2.0", "1.0")
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
            await rig.rollout.serve_repaired("toy")
        assert not rig.model.readable and not rig.torchserve.log
        manifest.write_bytes(content)
        before = sorted(rig.store.root.rglob("*"))
        rig.torchserve._states = []
        assert (await rig.rollout.serve_repaired("toy")).after == rig.first
        assert rig.model.readable and sorted(rig.store.root.rglob("*")) == before

    asyncio.run(run())
    assert [entry[0] for entry in rig.torchserve.log] == ["register"]
