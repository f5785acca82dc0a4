"""Times of calls and of a rebuild's stages.

Each time is taken twice, as wall time and as CPU time of the process: on a shared machine the second is the steadier,
and with one thread both are the same on an idle one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.spec import ModelSpec


@dataclass(frozen=True)
class Taken:
    """Seconds by both clocks."""

    wall: float
    cpu: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.wall - other.wall, self.cpu - other.cpu)


NOTHING = Taken(0.0, 0.0)


def now() -> Taken:
    """Both clocks."""
    return Taken(time.perf_counter(), time.process_time())


def taken(run: Callable[[], object]) -> Taken:
    """Time of one call."""
    start = now()
    run()
    return now() - start


class StageTimes(StageProgress):
    """Records how long each stage takes instead of showing it."""

    taken: dict[str, Taken]

    def __init__(self, *, quiet: bool = True) -> None:
        super().__init__(quiet=True)

    @contextmanager
    def task(self, stage: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """The stage, timed."""
        start = now()
        yield lambda count: None
        self.taken[stage] = self.taken.get(stage, NOTHING) + (now() - start)


def rebuild_stages(spec: ModelSpec, work: Path, options: RebuildOptions | None = None) -> dict[str, Taken]:
    """By stage, and ``rebuild`` for all of it."""
    StageTimes.taken = {}
    with patch("proponent.rebuild.pipeline.StageProgress", StageTimes):
        whole = taken(lambda: rebuild(spec, Store(work / "store"), options or RebuildOptions(quiet=True)))
    return {**StageTimes.taken, "rebuild": whole}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each entry."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
