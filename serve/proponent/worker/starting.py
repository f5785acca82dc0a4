"""How a worker starts, whatever hosts it: from a section of plain values that the gateway writes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from proponent.bounds.liveness import HEARTBEAT
from proponent.explainer import OpenRows
from proponent.worker.batch import Worker


def started_worker(section: Mapping[str, Any], device: torch.device | None) -> Worker:
    """A worker with its share of the machine; it lowers its priority once it has loaded.

    Args:
        section: ``bundle``; where they are given, ``weights`` and ``liveness`` (paths), ``lane`` (``predictions``
            loads the classifier alone), ``threads``, ``niceness`` and ``rows`` (the fields of a `ClusterRows`: where
            rows lie that are not read into this process).
        device: Where the model runs; None takes what the spec says.
    """
    threads = section.get("threads") or os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()
    torch.set_num_threads(int(threads))
    weights, liveness = (Path(section[key]) if section.get(key) else None for key in ("weights", "liveness"))
    predicts_only = section.get("lane") == "predictions"
    open_rows = _opener(section["rows"]) if section.get("rows") else None
    worker = Worker.load(
        Path(section["bundle"]), weights, device, liveness, predicts_only=predicts_only, open_rows=open_rows
    )
    stand_back(section.get("niceness", 0))
    return worker


def _opener(rows: Mapping[str, Any]) -> OpenRows:
    """Opens rows on a cluster; nothing else needs Ray, which not every service has."""
    from proponent.shards.cluster_rows import ClusterRows

    return ClusterRows(**rows).open


def stand_back(niceness: int) -> None:
    """Lowers the priority of all threads that compute, and of those that they start.

    Linux keeps a niceness for each thread, and those that compute have been there since the warm-up. The heartbeat
    stays as it is: a worker that stands back is not one that hangs.
    """
    if sys.platform != "linux":
        os.nice(niceness)
        return

    kept = {thread.native_id for thread in threading.enumerate() if thread.name == HEARTBEAT}
    for task in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):  # of a thread that has just ended
            if task not in kept:
                os.setpriority(os.PRIO_PROCESS, task, os.getpriority(os.PRIO_PROCESS, task) + niceness)
