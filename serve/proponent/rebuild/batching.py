"""How many examples a rebuild computes on together, and how many it reads at a time.

Another number of rows in a product, or another order of a sum, changes the last digits of a result, and a row
that is stored in half precision then rounds another way. So all arithmetic is done in blocks whose size follows
from the device and the memory, and the batch size is only what is read and moved to the device at a time: the
rows are the same, bit by bit, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier
from proponent.rebuild.kept_examples import SHARE
from proponent.rebuild.kept_gradients import FREE, KeptGradients
from proponent.rebuild.layout import channels_last, gains_from_channels_last
from proponent.rebuild.memory import (
    DEFAULT_MEMORY,
    block_size,
    check_budget,
    default_memory,
    example_bytes,
    matrix_bytes,
)
from proponent.rebuild.training_set import Batch, TrainingSet

CHUNK = 1024
"""Examples that are computed by one worker and saved together: what is lost at most with one that dies."""


@dataclass(frozen=True)
class Batching:
    """Sizes in examples, and the memory that they were chosen for.

    Attributes:
        block: Computed on together.
        read: Read and moved to the device together, a multiple of ``block``.
        memory: Bytes that batches and matrices may take.
        chunk: Examples of a chunk of a stage, of which no block reaches over the end.
        channels_last: Whether images lie so, see `proponent.rebuild.layout`.
        kept: Bytes of ``memory`` that gradients may take from one pass to the next; none on a GPU.
    """

    block: int
    read: int
    memory: int
    chunk: int
    channels_last: bool = False
    kept: int = 0

    @classmethod
    def of(cls, block: int, batch_size: int | None = None, memory: int = DEFAULT_MEMORY) -> Batching:
        """Reads ``batch_size`` examples at a time, rounded up to whole blocks; by default one block."""
        return cls(block, -(-(batch_size or block) // block) * block, memory, CHUNK)

    def blocks(self, data: TrainingSet, positions: Sequence[int] | None = None) -> Iterator[Batch]:
        """Blocks on the classifier's device, in the order of the positions (by default all), the shapes in turn.

        The examples of a block have one shape, so that each is computed at its own length; which they are follows
        from the positions alone.
        """
        for block in self._blocks(data, range(len(data)) if positions is None else positions):
            is_image = self.channels_last and isinstance(block.inputs, Tensor)
            yield replace(block, inputs=channels_last(block.tensor)) if is_image else block

    def _blocks(self, data: TrainingSet, chosen: Sequence[int]) -> Iterator[Batch]:
        groups = data.by_shape(chosen)
        if len(groups) == 1:
            for batch in data.batches(self.read, chosen):
                yield from batch.split(self.block)
            return
        for places in groups:
            for start in range(0, len(places), self.read):
                some = places[start : start + self.read]
                batch = data.batch([chosen[place] for place in some])
                yield from replace(batch, places=tuple(some)).split(self.block)

    def keeps(self, least_free: int = 0) -> KeptGradients:
        """Room for gradients of one model, which leaves so many bytes of the machine, or a part of the memory."""
        return KeptGradients(self.kept, max(least_free, self.memory // FREE))

    def count(self, examples: int) -> int:
        """How many blocks that many examples make."""
        return -(-examples // self.block)


def batching_for(
    classifier: Classifier,
    layers: Layers,
    data: TrainingSet,
    memory: int | None,
    batch_size: int | None,
    device: torch.device | None = None,
) -> Batching:
    """Blocks that the memory holds beside the curvature's matrices; see `Batching.of` for the batch size.

    They are for the classifier's device, or for the one that is given, whose `default_memory` None stands for.

    Raises:
        SpecError: The matrices alone do not fit.
    """
    where = device or classifier.device
    memory = default_memory(where) if memory is None else memory
    check_budget(classifier, layers, memory)
    rest = memory - matrix_bytes(classifier.spec.curvature.kind, layers) - memory // SHARE
    inputs = data.batch([data.largest()]).inputs
    each, on_cpu = example_bytes(classifier, layers, inputs), where.type == "cpu"
    block = block_size(rest, each, len(data), where)
    gains = on_cpu and gains_from_channels_last(classifier, layers, inputs)
    kept = max(rest - 2 * block * each - memory // FREE, 0) if on_cpu else 0
    return replace(Batching.of(block, batch_size, memory), channels_last=gains, kept=kept)
