"""Rebuilds that are killed at each save and resumed; a script, so that dying kills no test (see test_rebuild)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from proponent.index.store import Store
from proponent.rebuild import batching, joint_stage
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec

KILLED = 9
SMALL = 10
"""Rows of a shard, so that a tiny data set has several."""
PIECES = 2
"""Of a direction's numbers: each is one more save to die in."""


def main(spec: Path, root: Path) -> None:
    """Writes what each run saved to ``root/saves.json``; the stores are ``root/whole`` and ``root/killed-<k>``."""
    batching.CHUNK, joint_stage.PIECES = SMALL, PIECES
    os.fsync = lambda _: None  # what a process leaves behind survives its death anyway
    whole = run(spec, root / "whole")
    resumed = []
    for k in range(len(whole)):
        assert run(spec, root / f"killed-{k}", die_at=k) == whole[: k + 1]
        resumed.append(run(spec, root / f"killed-{k}"))
    (root / "saves.json").write_text(json.dumps({"whole": whole, "resumed": resumed}))


def run(spec: Path, store: Path, die_at: int | None = None) -> list[str]:
    """One rebuild in a process of its own; returns the stages that it saved (or died in)."""
    log = store.with_suffix(".log")
    log.write_text("")
    child = os.fork()
    if child == 0:
        watch(log, die_at)
        rebuild(load_spec(spec), Store(store), RebuildOptions(quiet=True))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (0 if die_at is None else KILLED), f"exit code {code}"
    return log.read_text().split()


def watch(log: Path, die_at: int | None) -> None:
    """Logs every save, and dies in the one of number ``die_at`` with its file written but not yet in place."""
    save, count = Workspace.save, 0

    def logged(self: Workspace, stage: str, tensors: Mapping[str, Tensor]) -> None:
        nonlocal count
        with log.open("a") as file:
            file.write(f"{stage}\n")
        if count == die_at:
            os.replace = lambda *_: os._exit(KILLED)
        count += 1
        save(self, stage, tensors)

    Workspace.save = logged  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
