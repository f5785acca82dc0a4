"""Could a worker of each model start, and is there memory for all of them: tried, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proponent.doctor.finding import Finding, failure, ok, warning
from proponent.doctor.store import served_models
from proponent.errors import ProponentError
from proponent.gateway.settings import Settings
from proponent.index.store import Store
from proponent.machine_memory import available_bytes

_TIGHT = 0.8


@dataclass(frozen=True)
class _Trial:
    """A worker that was started: its memory in bytes, or why there is none."""

    resident: int = 0
    error: str = ""


def check_workers(settings: Settings) -> Iterator[Finding]:
    """Loads each model as a worker does, and compares what all workers need with what the machine has."""
    trials: dict[str, int] = {}
    for name in served_models(settings):
        try:
            bundle = Store(settings.store).current(name)
        except (ProponentError, OSError):
            continue  # told by the check of the bundle
        trial = _tried(bundle, settings.of(name))
        if trial.error:
            remedy = (
                "make the code and the packages that the spec names importable here, as they were for the rebuild"
            )
            yield failure(f"worker of {name}", trial.error, remedy)
        else:
            trials[name] = trial.resident
            yield ok(f"worker of {name}", f"it loads, explains an input, and takes {trial.resident:,} bytes")
    if trials:
        yield _memory({name: size * _processes(settings.of(name)) for name, size in trials.items()})


def _processes(settings: Settings) -> int:
    return sum(settings.workers_of(lane) for lane in settings.lanes)


def _tried(bundle: Path, settings: Settings) -> _Trial:
    command = [sys.executable, "-m", "proponent.doctor.trial", str(bundle), str(settings.weights or "")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=settings.start_timeout)
    except subprocess.TimeoutExpired:
        return _Trial(error=f"it was not ready after {settings.start_timeout:g} s (--start-timeout)")
    try:
        return _Trial(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _Trial(error=f"its process ended with status {done.returncode}: {last}")


def _memory(resident: dict[str, int]) -> Finding:
    """Whether there is memory for all workers of each model, and for those of a new bundle beside them."""
    needed, available = sum(resident.values()), available_bytes()
    found = f"workers take {needed:,} of {available:,} bytes"
    remedy = "fewer --workers, --prediction-workers or models, more memory, or a smaller embedding_size"
    if needed > available:
        return failure("memory", found, remedy)
    if needed + max(resident.values()) > _TIGHT * available:
        more = "to publish, the new version of a model is loaded beside the old one"
        return warning("memory", f"{found}; {more}", remedy)
    return ok("memory", found)
