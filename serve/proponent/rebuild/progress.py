"""Progress of the stages of a rebuild: a bar with rate and remaining time on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """Steps per second of a task."""

    def render(self, task: Task) -> Text:
        """The rate, or nothing before the first step."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f}/s" if speed else "")


class StageProgress:
    """Shows stages one below the other on standard error while it is entered."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def task(self, stage: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Shows a stage of ``total`` items; what the block is given moves its bar by so many."""
        task = self._progress.add_task(stage, total=total, completed=done)
        yield lambda count: self._progress.advance(task, count)

    def track(self, stage: str, steps: Iterable[T], total: int, done: int = 0) -> Iterator[T]:
        """Yields the steps, moving the bar of ``stage``; ``done`` steps were finished by an earlier run."""
        with self.task(stage, total, done) as advance:
            for step in steps:
                yield step
                advance(1)

    @contextmanager
    def step(self, stage: str) -> Iterator[None]:
        """Shows a stage of one item, which is done when the block ends."""
        for _ in self.track(stage, [None], 1):
            yield
