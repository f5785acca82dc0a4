"""What every stage of a rebuild works with, and how its results are kept, shown and resumed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import Curvature

CHECKPOINT = 4096


class Resumable(Protocol):
    """An accumulator whose sums can be stored."""

    def state(self) -> dict[str, Tensor]:
        """The sums by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state."""


@dataclass(frozen=True)
class RebuildContext:
    """One rebuild: the classifier, its training examples, and where finished stages are kept and shown.

    Attributes:
        left_out: Modules with trained parameters that are not explained, and why.
    """

    classifier: Classifier
    layers: Layers
    data: TrainingSet
    batching: Batching
    workspace: Workspace
    progress: StageProgress
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Curvature:
        """The curvature section of the spec."""
        return self.classifier.spec.curvature

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.classifier.device

    def batches(self, positions: Sequence[int] | None = None) -> Iterator[Batch]:
        """Blocks of the training set, in the order of the positions (by default all)."""
        return self.batching.blocks(self.data, positions)

    def tracked_batches(self, stage: str, *parts: Sequence[int]) -> Iterator[Batch]:
        """Blocks of some parts of the training set, shown as a stage; no block reaches over a part's end."""
        batches = (batch for positions in parts for batch in self.batches(positions))
        return self.progress.track(stage, batches, sum(self.batching.count(len(positions)) for positions in parts))

    def unfinished(self, stage: str, names: Collection[str]) -> Iterator[str]:
        """Those of a stage's parts that an earlier run did not save, shown as a stage."""
        left = [name for name in names if not self.workspace.has(name)]
        return self.progress.track(stage, left, len(names), len(names) - len(left))

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
