"""What every stage of a rebuild works with, and how a sum over the training set resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.rebuild.workspace import Workspace

CHECKPOINT = 4096


class Resumable(Protocol):
    """An accumulator whose sums can be stored."""

    def state(self) -> dict[str, Tensor]:
        """The sums by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state."""


@dataclass(frozen=True)
class Stages:
    """What every stage needs."""

    classifier: Classifier
    data: TrainingSet
    layers: Layers
    workspace: Workspace
    batching: Batching
    memory: int
    progress: StageProgress

    def batches(self, positions: Sequence[int] | None = None) -> Iterator[Batch]:
        """Blocks of the training set, in the order of the positions (by default all)."""
        return self.batching.blocks(self.data, positions)

    def fold(self, stage: str, accumulator: Resumable, positions: list[int], update: Callable[[Batch], None]) -> None:
        """Feeds an accumulator, storing its sums now and then; resumes from what is stored."""
        chunks = [positions[start : start + CHECKPOINT] for start in range(0, len(positions), CHECKPOINT)]
        done = sum(self.workspace.has(f"{stage}-{number:05d}") for number in range(len(chunks)))
        if done:
            accumulator.load(self.workspace.load(f"{stage}-{done - 1:05d}"))
        for number in self.progress.track(stage, range(done, len(chunks)), len(chunks), done):
            for batch in self.batches(chunks[number]):
                update(batch)
            self.workspace.save(f"{stage}-{number:05d}", accumulator.state())
