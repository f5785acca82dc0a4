"""Where the time of a batch goes: named stages, measured once for replies, metrics and traces.

The recorder of what is being computed is ambient, as its token is (``bounds.cancellation``): code that measures a
stage needs no parameter for it, and where nobody records nothing is kept.

>>> with recording() as stages:
...     with stage("forward"):
...         pass
>>> [each.name for each in stages]
['forward']
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Stage:
    """One stage, from ``start_ns`` to ``end_ns`` of ``time.monotonic_ns``."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


_recorded: ContextVar[list[Stage] | None] = ContextVar("recorded", default=None)


@contextmanager
def recording() -> Iterator[list[Stage]]:
    """A block whose stages are added to the list, in order; the recorder outside holds again behind it."""
    stages: list[Stage] = []
    before = _recorded.set(stages)
    try:
        yield stages
    finally:
        _recorded.reset(before)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Measures a block, also one that fails; ``end_ns`` is right once it has ended."""
    now = time.monotonic_ns()
    measured = Stage(name, now, now)
    try:
        yield measured
    finally:
        measured.end_ns = time.monotonic_ns()
        _record(measured)


class Stopwatch:
    """Seconds by stage, of one batch."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block."""
        measured: Stage | None = None
        try:
            with stage(name) as measured:
                yield
        finally:
            if measured is not None:
                self.seconds[name] = self.seconds.get(name, 0.0) + measured.seconds


def _record(measured: Stage) -> None:
    """What follows a stage of the same name continues it: each answer of a batch is looked up by itself."""
    stages = _recorded.get()
    if stages is None:
        return
    if stages and stages[-1].name == measured.name:
        stages[-1].end_ns = measured.end_ns
    else:
        stages.append(measured)
