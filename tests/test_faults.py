"""Killed at any stage, full disk, read-only directory: what is current is whole, and the next run cleans up."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import stores
from proponent.errors import BusyError, StorageError
from proponent.index.forgetting import forget
from proponent.index.lifecycle import collect, make_current, rollback
from proponent.index.lock import changing
from proponent.index.store import Store
from proponent.inspection.verify import verify
from proponent.rebuild import bundle_writer as built
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

EXPECTED_POINTS = {
    "rebuild": "stage.written:survey stage.saved:hessian stage.saved:rows-00000 bundle.written:rows.faiss "
    "bundle.written:catalog.sqlite seal.written seal.renamed current.written current.replaced",
    "publish": "current.written current.replaced",
    "rollback": "current.written current.replaced",
    "gc": "remove.renamed remove.removed",
    "forget": "forgotten.json.written forgotten.json.replaced",
    "compaction": "forgotten.json.written forgotten.json.replaced compaction.written seal.written seal.renamed "
    "current.written current.replaced remove.renamed remove.removed",
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.build(tmp_path_factory.mktemp("faults"))


def killed(name: str, spec: Path, root: Path) -> dict[str, Any]:
    here = Path(__file__).parent
    command = [sys.executable, str(here / "killed.py"), name, str(spec), str(spec.parents[1] / "store"), str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((root / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", [name for name in EXPECTED_POINTS if name != "rebuild"])
def test_killed_at_every_point(name: str, spec: Path, tmp_path: Path) -> None:
    found = killed(name, spec, tmp_path)
    before, after = found["before"], found["after"]
    assert set(EXPECTED_POINTS[name].split()) <= set(found["points"])
    assert before != after
    for point, states in found["points"].items():
        assert states["code"] == 137, point
        assert states["killed"]["pointer"] in (before["pointer"], after["pointer"]), point
        assert states["cleanup"] == 0, point
        assert states["cleaned"]["leftovers"] == [], point
        if name in ("gc", "forget", "compaction"):
            assert states["cleaned"] == after, point


@pytest.mark.slow
def test_a_rebuild_killed_at_every_point(spec: Path, tmp_path: Path) -> None:
    """A rebuild is dated by its start, so that each new one has a digest of its own, but a resumed one has not."""
    found = killed("rebuild", spec, tmp_path)
    assert set(EXPECTED_POINTS["rebuild"].split()) <= set(found["points"])
    before = found["before"]["pointer"]["digest"]
    for point, states in found["points"].items():
        assert states["code"] == 137, point
        pointer = states["killed"]["pointer"]
        assert before in (pointer["digest"], pointer.get("previous")), point
        assert states["cleanup"] == 0, point
        assert states["cleaned"]["leftovers"] == [], point
        assert states["cleaned"]["pointer"]["previous"] == before, point
        assert len(states["cleaned"]["bundles"]) == len(found["after"]["bundles"]), point
        if point in ("seal.renamed", "current.written", "current.replaced"):
            assert states["killed"]["bundles"] == states["cleaned"]["bundles"], point


def test_only_one_may_change(spec: Path, tmp_path: Path) -> None:
    """While a model is being changed everything that would change it too says so; forgetting itself goes on."""
    store = stores.copy(spec.parents[1], tmp_path / "store")
    current, previous = stores.digests(store)
    with changing(store, stores.MODEL):
        for change in (
            lambda: make_current(store, stores.MODEL, previous),
            lambda: rollback(store, stores.MODEL),
            lambda: collect(store, stores.MODEL),
            lambda: rebuild(load_spec(spec), store, RebuildOptions(quiet=True)),
            lambda: forget(store, stores.MODEL, ["toy/1"], compact=True),
        ):
            with pytest.raises(BusyError, match="lock"):
                change()
        assert stores.run("publish", previous, store=store).returncode == 5
        assert forget(store, stores.MODEL, ["toy/2"]).newly_forgotten == ["toy/2"]
    assert stores.digests(store) == (current, previous)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond ``size`` bytes fail as on a full disk (EFBIG; Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def listing(store: Store) -> dict[str, int]:
    """Every file of the bundles with its size, and the pointer."""
    bundles = store.directory(stores.MODEL) / "bundles"
    files = {str(path.relative_to(bundles)): path.stat().st_size for path in bundles.rglob("*") if path.is_file()}
    return files | {json.dumps(store.pointer(stores.MODEL)): 0}


@pytest.mark.parametrize("size", [10, 12000])
def test_a_full_disk_changes_nothing(spec: Path, tmp_path: Path, size: int) -> None:
    """The limit hits the workspace's marker or its Hessian."""
    store = stores.copy(spec.parents[1], tmp_path / "store")
    before = listing(store)
    with largest_file(size), pytest.raises(StorageError, match="cannot write below") as caught:
        rebuild(load_spec(spec), store, RebuildOptions(quiet=True))
    assert caught.value.reason == "STORAGE"
    assert listing(store) == before
    rebuild(load_spec(spec), store, RebuildOptions(quiet=True))


@pytest.mark.parametrize("writer", ["write_rows", "write_scales", "write_catalog"])
def test_a_full_disk_stops_a_rebuild_in_the_middle_of_a_file(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """The disk fills up while one file of the bundle is written; the next run finishes from the stored stages."""
    store = stores.copy(spec.parents[1], tmp_path / "store")
    before, write = listing(store), getattr(built, writer)

    def short_of_space(path: Path, *arguments: object) -> object:
        with largest_file(1000):
            return write(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(built, writer, short_of_space)
        with pytest.raises(StorageError, match="cannot write below"):
            rebuild(load_spec(spec), store, RebuildOptions(quiet=True))
    assert listing(store) == before
    path = rebuild(load_spec(spec), store, RebuildOptions(quiet=True))
    assert path == store.current(stores.MODEL)
    assert verify(path).whole


@pytest.mark.parametrize("size", [3000, 12000])
def test_a_full_disk_stops_a_compaction(spec: Path, tmp_path: Path, size: int) -> None:
    """The limit hits the rows (FAISS) or the catalog (SQLite)."""
    store = stores.copy(spec.parents[1], tmp_path / "store")
    forget(store, stores.MODEL, ["toy/1"])
    before = listing(store)
    with largest_file(size), pytest.raises(StorageError):
        forget(store, stores.MODEL, [], compact=True)
    assert listing(store) == before
    assert forget(store, stores.MODEL, [], compact=True).still_on_disk == []


def test_a_full_disk_forgets_nothing_by_halves(spec: Path, tmp_path: Path) -> None:
    store = stores.copy(spec.parents[1], tmp_path / "store")
    with largest_file(4), pytest.raises(StorageError):
        forget(store, stores.MODEL, ["toy/1"])
    assert forget(store, stores.MODEL, ["toy/1"]).newly_forgotten == ["toy/1"]


@pytest.mark.parametrize("command", ["rollback", "gc", "forget", "publish"])
def test_a_read_only_store_changes_nothing(spec: Path, tmp_path: Path, command: str) -> None:
    store = stores.copy(spec.parents[1], tmp_path / "store")
    before, arguments = listing(store), {"forget": ["toy/1"], "publish": [stores.digests(store)[1]]}
    with read_only(store.directory(stores.MODEL)):
        done = stores.run(command, *arguments.get(command, []), store=store)
    assert done.returncode == 6, done.stderr
    assert "[STORAGE]" in done.stderr
    assert listing(store) == before


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Makes a directory read-only, for root by a mount of it onto itself; skips where neither is possible."""
    if os.geteuid() != 0:
        directory.chmod(0o555)
        try:
            yield
        finally:
            directory.chmod(0o755)
        return
    mounted = subprocess.run(["mount", "--bind", directory, directory], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("root can write to read-only directories, and may not mount here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", directory], check=True, capture_output=True)
