"""What a worker is told when it starts, whatever hosts it: see ``proponent.worker.starting``."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings

_LOADING_SHARE = 0.75
"""Of the time that a worker has to start: how long it waits for its rows before it says that they are missing."""


def worker_section(
    settings: Settings, lane: Lane, bundle: Path, weights: Path | None, liveness: Path | None
) -> dict[str, object]:
    """What it loads, and what it takes of a machine where a gateway watches it (``liveness``)."""
    paths = {"bundle": bundle, "weights": weights, "liveness": liveness}
    section: dict[str, object] = {"lane": lane.value}
    section |= {name: None if path is None else str(path.absolute()) for name, path in paths.items()}
    return section if liveness is None else section | _shares(settings, lane) | _rows(settings, lane, liveness)


def worker_environment(temporary: Path, threads: int) -> Mapping[str, str]:
    """The environment of workers.

    Threads that wait for each other sleep, unless the operator says otherwise: spinning takes the cores from whom
    they wait for as soon as the gateway or another worker needs one too.
    """
    return {
        "OMP_WAIT_POLICY": "passive",
        "RAY_TMPDIR": tempfile.gettempdir(),  # where this machine's part of a cluster is found
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


def _rows(settings: Settings, lane: Lane, liveness: Path) -> dict[str, object]:
    """Where the rows lie that a worker explains with, unless it reads them itself; see ``proponent.shards``."""
    if lane is Lane.PREDICTIONS or not (settings.ray and settings.row_shards):
        return {}
    return {
        "rows": {
            "address": settings.ray,
            "shards": settings.row_shards,
            "cores": settings.shard_cores,
            # Of this gateway's workers alone, which share scanners.
            "namespace": f"{socket.gethostname()} {liveness.parent.name}",
            "patience_s": settings.start_timeout * _LOADING_SHARE,
        }
    }
