"""The command line as a benchmark calls it: a process of its own, its JSON, its time and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proponent.index.store import CURRENT, Store

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Done:
    """What a command printed as JSON, the seconds that it took by both clocks, and its largest memory in bytes."""

    printed: Any
    wall: float
    cpu: float
    peak: int


def proponent(*arguments: object, threads: int = 1) -> Done:
    """Runs ``proponent ...``; a failure ends the benchmark with what the command said."""
    line = [sys.executable, "-m", "proponent.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(line[2:])}: failed")
    return Done(
        json.loads(printed) if printed.startswith(("{", "[")) else printed,
        time.perf_counter() - begin,
        used.ru_utime + used.ru_stime,
        1024 * used.ru_maxrss,
    )


def trained(preset: str, work: Path, *options: object) -> Path:
    """The directory of a preset's model, trained unless it is there already."""
    directory = work / "-".join([preset, *map(str, options)]).replace("--", "")
    if not (directory / "explain.yaml").exists():
        proponent("train", preset, "--out", directory, *options)
    return directory


def rebuilt(preset: str, work: Path) -> Path:
    """The bundle of a preset's model, rebuilt unless there is one already."""
    directory = trained(preset, work)
    store = Store(directory / "store")
    if not (store.directory(preset) / CURRENT).exists():
        proponent("rebuild", directory, "--store", store.root, "--quiet")
    return store.current(preset)


def write(out: Path, figures: Mapping[str, Any], threads: int = 1) -> None:
    """Keeps figures beside what they were measured on."""
    versions = {name: version(name) for name in ("proponent", "torch", "faiss-gpu")}
    machine = {"cores": os.cpu_count(), "threads": threads, "load_average": round(os.getloadavg()[0], 1)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "versions": versions, **figures}, indent=1) + "\n", "utf-8")
