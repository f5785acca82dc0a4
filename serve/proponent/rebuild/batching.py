"""How many examples a rebuild computes on together, and how many it reads at a time.

Another number of rows in a product, or another order of a sum, changes the last digits of a result, and a row
that is stored in half precision then rounds another way. So all arithmetic is done in blocks whose size follows
from the device and the memory, and the batch size is only what is read and moved to the device at a time: the
rows are the same, bit by bit, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from proponent.attribution.layers import Layers, num_parameters
from proponent.classifier import Classifier
from proponent.rebuild.training_set import Batch, TrainingSet

MOST_ON_CPU, MOST = 64, 512
"""Largest blocks; above 64, blocks were measured up to 1.4 times slower per example on a processor."""


@dataclass(frozen=True)
class Batching:
    """Sizes in examples.

    Attributes:
        block: Computed on together.
        read: Read and moved to the device together, a multiple of ``block``.
    """

    block: int
    read: int

    @classmethod
    def of(cls, block: int, batch_size: int | None = None) -> Batching:
        """Reads ``batch_size`` examples at a time, rounded up to whole blocks; by default one block."""
        return cls(block, -(-(batch_size or block) // block) * block)

    def blocks(self, data: TrainingSet, positions: Sequence[int] | None = None) -> Iterator[Batch]:
        """Blocks on the classifier's device, in the order of the positions (by default all)."""
        for batch in data.batches(self.read, positions):
            yield from batch.split(self.block)

    def count(self, examples: int) -> int:
        """How many blocks that many examples make."""
        return -(-examples // self.block)


def batching_for(
    classifier: Classifier, layers: Layers, examples: int, memory: int, batch_size: int | None
) -> Batching:
    """Blocks that the memory holds; see `Batching.of` for the batch size."""
    return Batching.of(block_size(memory, _widest(classifier, layers), examples, classifier.device), batch_size)


def _widest(classifier: Classifier, layers: Layers) -> int:
    """Numbers of one example that are held at once: all P for exact curvature, else those of one layer."""
    if classifier.spec.curvature.kind == "exact":
        return num_parameters(layers)
    return max(layer.numel for layer in layers.values())


def block_size(memory: int, numbers: int, examples: int, device: torch.device) -> int:
    """Examples of which each takes ``numbers`` floats, in a few copies, within an eighth of the memory."""
    most = MOST_ON_CPU if device.type == "cpu" else MOST
    return max(1, min(most, examples, memory // 8 // (numbers * 4 * 6)))
