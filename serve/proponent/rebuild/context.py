"""What every stage of a rebuild works with: it is a map over chunks of examples, and where it sums, in their order.

Chunks depend on the examples and the model alone, what is computed of one depends on nothing else, and sums are
formed in one place and one order, in float64. So the result is the same, bit by bit, whoever computed which chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.kept_gradients import KeptGradients
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import Train
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import Curvature

MOST_PARTS, LEAST_PARTS, PART_BYTES = 64, 8, 4 << 30
"""Parts of a sum: as many as there are chunks, but fewer of large sums: they lie on disk until they are added."""

Compute = Callable[[Sequence[int]], Mapping[str, Tensor]]
"""Tensors of some items."""


class Task(ABC):
    """What a stage computes of each chunk; sent to other processes, so that all it needs lies in the workspace."""

    is_even: ClassVar[bool] = True
    """Whether chunks take about as long as each other: then one that takes far longer hangs."""

    @abstractmethod
    def prepare(self, context: RebuildContext) -> Compute:
        """Reads what earlier stages left, once for all chunks that are computed in one place."""

    def called(self, context: RebuildContext, item: int) -> str:
        """An item as errors name it: a training example, by its position, unless a task says otherwise."""
        return f"example {context.data.example_id(item)!r}"


class LayerTask(Task):
    """A `Task` whose items are covered layers, by their numbers."""

    is_even = False

    def names(self, context: RebuildContext, items: Sequence[int]) -> list[str]:
        """Of some layers."""
        layers = list(context.layers)
        return [layers[item] for item in items]

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        [name] = self.names(context, [item])
        return f"layer {name!r}"


class Executor(Protocol):
    """Who computes the chunks of a stage."""

    def device(self, own: torch.device) -> torch.device:
        """Where it computes, for a driver whose own device is ``own``."""

    def run(
        self, context: RebuildContext, stage: str, task: Task, chunks: Mapping[str, Sequence[int]]
    ) -> Iterator[str]:
        """Computes and saves all chunks, in any order; yields the name of each that is finished."""

    @property
    def train(self) -> Train | None:
        """Runs trainings; None leaves them to `in_processes`."""


class InProcess:
    """One chunk after the other, here."""

    train: Train | None = None

    def device(self, own: torch.device) -> torch.device:
        """See `Executor`."""
        return own

    def run(
        self, context: RebuildContext, stage: str, task: Task, chunks: Mapping[str, Sequence[int]]
    ) -> Iterator[str]:
        """See `Executor`."""
        compute = task.prepare(context)
        for name, positions in chunks.items():
            context.workspace.save(name, compute(positions))
            yield name


@dataclass(frozen=True)
class RebuildContext:
    """One rebuild: the classifier, its training examples, and where finished stages are kept and shown.

    Attributes:
        left_out: Modules with trained parameters that are not explained, and why.
        gradients: Those of the classifier that a later pass needs again; nothing, unless it is given room.
    """

    classifier: Classifier
    layers: Layers
    data: TrainingSet
    batching: Batching
    workspace: Workspace
    progress: StageProgress
    left_out: Mapping[str, str] = field(default_factory=dict)
    executor: Executor = field(default_factory=InProcess)
    gradients: KeptGradients = field(default_factory=KeptGradients)

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

    def of_each(
        self, positions: Sequence[int], compute: Callable[[Batch], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What is computed of blocks, [n, ...] for the n positions and in their order."""
        parts, places = [], list[int]()
        for batch in self.batches(positions):
            parts.append(compute(batch))
            places.extend(batch.places)
        found = concatenated(parts)
        if not places:
            return found
        order = torch.tensor(places).argsort()
        return {name: column[order.to(column.device)] for name, column in found.items()}

    def unfinished(self, stage: str, names: Collection[str]) -> Iterator[str]:
        """Those of a stage's parts that an earlier run did not save, shown as a stage."""
        left = [name for name in names if not self.workspace.has(name)]
        return self.progress.track(stage, left, len(names), len(names) - len(left))

    def shards(self, name: str = "rows") -> dict[str, Sequence[int]]:
        """Names of the chunks of all training examples, and the positions of each."""
        return chunked(name, range(len(self.data)), self.batching.chunk)

    def map(self, stage: str, task: Task, chunks: Mapping[str, Sequence[int]]) -> list[str]:
        """Computes the chunks that an earlier run did not save; returns the names of all, in order."""
        left = {name: positions for name, positions in chunks.items() if not self.workspace.has(name)}
        total = sum(map(len, chunks.values()))
        with self.progress.task(stage, total, total - sum(map(len, left.values()))) as advance:
            for name in self.executor.run(self, stage, task, left) if left else ():
                advance(len(left[name]))
        return list(chunks)

    def map_layers(self, stage: str, task: LayerTask) -> dict[str, Tensor]:
        """What a task computes of each layer, taken together; what it has saved stays until it is discarded."""
        names = self.map(stage, task, chunked(stage, range(len(self.layers)), 1))
        found: dict[str, Tensor] = {}
        for name in names:
            found |= self.workspace.load(name)
        return found

    def parts(
        self, stage: str, task: Task, items: Sequence[int], numbers: int, least: int | None = None
    ) -> list[str]:
        """Computes what is to be summed; returns the names of the parts, in the order of their sum.

        Args:
            stage: Its parts are named after it.
            task: Computes sums of ``numbers`` numbers altogether.
            items: Positions of examples, or whatever the task takes.
            numbers: They say, with the number of items, how many parts there are.
            least: Fewest items of a part; by default those of a chunk.
        """
        count = min(max(PART_BYTES // (8 * max(numbers, 1)), LEAST_PARTS), MOST_PARTS)
        return self.map(
            stage, task, chunked(stage, items, max(least or self.batching.chunk, -(-len(items) // count)))
        )

    def total(self, parts: Sequence[str], names: Collection[str]) -> dict[str, Tensor]:
        """Sums of some tensors over the parts, in their order, on the model's device."""
        load, device = self.workspace.load_some, self.device
        sums = {name: value.to(device) for name, value in load(parts[0], names).items()}
        for part in parts[1:]:
            for name, value in load(part, names).items():
                sums[name] += value.to(device)
        return sums

    def kept(self, stage: str, parts: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors of a stage, computed where it is not finished; then the parts it was computed from are deleted."""
        found = self.workspace.cached(stage, compute)
        self.workspace.discard(parts)
        return found


def concatenated(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Columns of several batches as one."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def chunked(stage: str, items: Sequence[int], size: int) -> dict[str, Sequence[int]]:
    """Names of a stage's chunks, and the items of each."""
    starts = range(0, len(items), size)
    return {f"{stage}-{number:05d}": items[start : start + size] for number, start in enumerate(starts)}
