"""What a worker is told when it starts, whatever hosts it: see ``proponent.worker.starting``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings


def worker_section(
    settings: Settings, lane: Lane, bundle: Path, weights: Path | None, liveness: Path | None
) -> dict[str, object]:
    """What it loads, and what it takes of a machine where a gateway watches it (``liveness``)."""
    paths = {"bundle": bundle, "weights": weights, "liveness": liveness}
    section: dict[str, object] = {"lane": lane.value}
    section |= {name: None if path is None else str(path.absolute()) for name, path in paths.items()}
    return section if liveness is None else section | _shares(settings, lane)


def worker_environment(temporary: Path, threads: int) -> Mapping[str, str]:
    """The environment of workers.

    Threads that wait for each other sleep, unless the operator says otherwise: spinning takes the cores from whom
    they wait for as soon as the gateway or another worker needs one too.
    """
    return {
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONWARNINGS": "ignore",
    }


def _shares(settings: Settings, lane: Lane) -> dict[str, object]:
    """A worker that stands back lets the workers of another lane through."""
    stands_back = lane is Lane.EXPLANATIONS and Lane.PREDICTIONS in settings.lanes
    return {
        "threads": settings.threads_of(lane),
        "niceness": settings.explanation_niceness if stands_back else 0,
    }
