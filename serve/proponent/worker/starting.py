"""How a worker starts, whatever hosts it: from a section of plain values that the gateway writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proponent.worker.batch import Worker


def started_worker(section: Mapping[str, Any], device: torch.device | None) -> Worker:
    """A worker with its share of the machine; it lowers its priority once it has loaded.

    Args:
        section: ``bundle``; where they are given, ``weights`` and ``liveness`` (paths), ``lane`` (``predictions``
            loads the classifier alone), ``threads`` and ``niceness``.
        device: Where the model runs; None takes what the spec says.
    """
    threads = section.get("threads") or os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()
    torch.set_num_threads(int(threads))
    weights, liveness = (Path(section[key]) if section.get(key) else None for key in ("weights", "liveness"))
    predicts_only = section.get("lane") == "predictions"
    worker = Worker.load(Path(section["bundle"]), weights, device, liveness, predicts_only=predicts_only)
    os.nice(section.get("niceness", 0))
    return worker
