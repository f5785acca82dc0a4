"""The first reading of all examples, by chunks: what they are now, by which everything after it is kept and compared.

Nothing of it is taken from an earlier run: data may have changed since.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.context import Compute, Executor, RebuildContext, Task
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import READ_AT_ONCE, TrainingSet
from proponent.rebuild.workspace import of_this_run

STAGE = "reading"


@dataclass(frozen=True)
class ReadTask(Task):
    """What the examples of a chunk are; whoever reads them keeps them for the stages to come."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        return context.data.read


@dataclass(frozen=True)
class Examples:
    """What is read.

    Attributes:
        layers: Of the classifier, that will be covered.
        memory: Bytes of a rebuild, of which workers give a part to examples that they keep.
    """

    classifier: Classifier
    layers: Layers
    data: TrainingSet
    memory: int


def read_all(examples: Examples, work: Path, shards: str, progress: StageProgress, executor: Executor) -> str:
    """Reads every example once, and tells the data the first reading of each; returns the data's fingerprint.

    Args:
        examples: All of them.
        work: Directory of the stages to come; what is read lies inside until all of it is there.
        shards: URL of their tensors, or an empty text.
        progress: Shows the stage.
        executor: Reads.

    Raises:
        SpecError: Two examples share an id, or one is unusable; see also `Executor`.
    """
    batching = Batching.of(READ_AT_ONCE, memory=examples.memory)
    with of_this_run(work / STAGE, f"{shards}/{STAGE}" if shards else "") as workspace:
        context = RebuildContext(
            examples.classifier, examples.layers, examples.data, batching, workspace, progress, executor=executor
        )
        names = context.map("read data", ReadTask(), context.shards(STAGE))
        return examples.data.gather(map(workspace.load, names))
