"""Kills an operation at each of its fault points and says what is left; a script, so that dying kills no test.

For every point: a fresh copy of the store, the operation in a fork that dies there, the state, the operation
that cleans up, the state again. See test_faults.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proponent.explainer import Explainer
from proponent.index.bundle import read_manifest, verify_files
from proponent.index.faults import FAULT, KILLED, TRACE
from proponent.index.forgetting import forget
from proponent.index.lifecycle import collect, list_bundles, make_current, rollback
from proponent.index.store import Store
from proponent.index.tombstones import Tombstones
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from stores import MODEL

Operation = Callable[[Store], object]
FORGOTTEN = ["toy/3", "toy/7"]


def operations(spec: Path) -> dict[str, tuple[Operation, Operation]]:
    """Each operation, and the one that is run after it was killed."""

    def run_rebuild(store: Store) -> object:
        return rebuild(load_spec(spec), store, RebuildOptions(quiet=True))

    def run_gc(store: Store) -> object:
        return collect(store, MODEL, workspace=True)

    def run_publish(store: Store) -> object:
        return make_current(store, MODEL, store.pointer(MODEL).get("previous") or store.pointer(MODEL)["digest"])

    def run_forget(store: Store) -> object:
        return forget(store, MODEL, FORGOTTEN)

    def run_compaction(store: Store) -> object:
        return forget(store, MODEL, FORGOTTEN, compact=True)

    return {
        "rebuild": (run_rebuild, run_rebuild),
        "publish": (run_publish, run_gc),
        "rollback": (lambda store: rollback(store, MODEL), run_gc),
        "gc": (run_gc, run_gc),
        "forget": (run_forget, run_forget),
        "compaction": (run_compaction, run_compaction),
    }


def main(name: str, spec: Path, template: Path, root: Path) -> None:
    """Writes the states of one operation to ``root/<name>.json``."""
    operation, cleanup = operations(spec)[name]
    prepare(name, template, root)
    before = state(Store(root / "prepared"))
    whole = Store(shutil.copytree(root / "prepared", root / "whole"))
    points = trace(operation, whole, root / "trace")
    after = state(whole)
    killed = {}
    for number, point in enumerate(points):
        store = Store(shutil.copytree(root / "prepared", root / f"killed-{number}"))
        code = forked(operation, store, {FAULT: point})
        found = {"code": code, "killed": state(store)}
        killed[point] = {**found, "cleanup": forked(cleanup, store, {}), "cleaned": state(store)}
    (root / f"{name}.json").write_text(json.dumps({"before": before, "after": after, "points": killed}))


def prepare(name: str, template: Path, root: Path) -> None:
    """The store that the operation starts from: for a garbage collection, with something to collect."""
    store = Store(shutil.copytree(template, root / "prepared"))
    if name == "gc":
        store.point(MODEL, store.pointer(MODEL)["digest"])
        (store.directory(MODEL) / "work").mkdir()
    if name == "rebuild":
        store.point(MODEL, store.pointer(MODEL)["previous"])


def trace(operation: Operation, store: Store, log: Path) -> list[str]:
    """Runs an operation to its end; returns the points that it passes, each once."""
    log.write_text("")
    assert forked(operation, store, {TRACE: str(log)}) == 0
    return list(dict.fromkeys(log.read_text().split()))


def forked(operation: Operation, store: Store, environment: dict[str, str]) -> int:
    """Exit code of an operation in a process of its own."""
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        operation(store)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state(store: Store) -> dict[str, Any]:
    """What a service would find, and what lies about."""
    bundle = store.current(MODEL)
    verify_files(bundle, read_manifest(bundle))
    shown = [entry.example_id for entry in Explainer.load(bundle).catalog]
    kept = [path.name for path in list_bundles(store, MODEL)]
    for name in kept:
        verify_files(bundle.with_name(name), read_manifest(bundle.with_name(name)))
    known = {"current", "bundles", "lock", "forgotten.json", ".forgotten.json.lock"}
    return {
        "pointer": store.pointer(MODEL),
        "bundles": kept,
        "forgotten": sorted(Tombstones.open(store, MODEL).ids()),
        "rows_of_forgotten": sorted(set(shown) & set(FORGOTTEN)),
        "leftovers": sorted(
            path.name
            for path in (*store.directory(MODEL).iterdir(), *bundle.parent.iterdir())
            if path.name not in (*known, *kept)
        ),
    }


if __name__ == "__main__":
    assert KILLED == 137
    main(sys.argv[1], *map(Path, sys.argv[2:]))
