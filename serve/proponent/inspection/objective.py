"""A training objective's curvature and its examples' gradients, by passes over the training set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proponent.attribution.functional import LabelledBatch
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import Layers, num_parameters
from proponent.attribution.solvers import Matvec, ggn_matvec, hessian_matvec
from proponent.classifier import Classifier
from proponent.rebuild.memory import DOUBLE, FLOAT, GIB, example_bytes
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import TrainingSet

BATCH = 256
MEMORY = 2 * GIB
"""Bytes that the examples of a batch may take, which makes the batches of large networks smaller."""
VECTORS = 8
"""Vectors of all parameters that a solver holds for each of its right-hand sides, counted on the safe side."""
SAMPLE_SEED = 7


class Objective:
    """The curvature A of a training objective, by products; its examples are held in memory.

    Args:
        classifier, layers, data: Whose objective it is.
        examples: How many training examples it is taken of, a seeded sample; None takes all.

    Attributes:
        size: How many it is taken of.
        parameters: P.
        exact: Whether A is the Hessian, and not the Gauss-Newton matrix.
        dtype: Precision of a solve, float64 with the Hessian.
        device: Where its vectors lie.
    """

    def __init__(
        self, classifier: Classifier, layers: Layers, data: TrainingSet, examples: int | None = None
    ) -> None:
        self._classifier = classifier
        self._layers = layers
        self._data = data
        self._example_bytes = example_bytes(classifier, layers, data.batch([data.largest()]).inputs)
        chosen = data.sample(len(data) if examples is None else examples, SAMPLE_SEED)
        self._batches = [
            (batch.inputs, batch.labels, batch.keys) for batch in data.batches(self._at_once(BATCH), chosen)
        ]
        self.size = len(chosen)
        self.parameters = num_parameters(layers)
        self.exact = classifier.spec.curvature.kind == "exact"
        self.dtype = torch.float64 if self.exact else torch.float32
        self.device = classifier.device

    @property
    def curvature(self) -> str:
        """Which matrix A is."""
        return "hessian" if self.exact else "gauss-newton"

    @property
    def columns(self) -> int:
        """Right-hand sides that are solved for side by side."""
        column = self._example_bytes * len(self._batches[0][1]) + VECTORS * DOUBLE * self.parameters
        return max(1, MEMORY // column)

    def product(self, batches: Sequence[LabelledBatch] | None = None) -> Matvec:
        """Products with A, or with the same of some batches."""
        matvec = hessian_matvec if self.exact else ggn_matvec
        classifier = self._classifier
        return matvec(
            classifier.model,
            classifier.loss,
            self._batches if batches is None else batches,
            self._layers,
            weight_decay=classifier.spec.weight_decay,
        )

    def sampled_products(self) -> list[Matvec]:
        """Products of single batches, each with its share of the examples: their plain mean is A."""
        return [self._weighted(batch) for batch in self._batches]

    def gradients(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gradients [P, n] of some training examples, each up to a factor, and the factors [n] float64."""
        scaled, gradients = scaled_gradients(self._classifier, self._layers, self._data.batch(positions))
        return flat_gradients(gradients).detach().mT.to(self.dtype), scaled.scale

    def products_with_gradients(self, solutions: Tensor) -> Tensor:
        """``g_i^T x`` for every training example and each solution [P, Q], [Q, N] float64."""
        parts = []
        gradients_bytes = 3 * FLOAT * self.parameters
        for batch in self._data.batches(self._at_once(BATCH // 2, gradients_bytes)):
            scaled, gradients = scaled_gradients(self._classifier, self._layers, batch)
            flat = flat_gradients(gradients)
            parts.append((flat @ solutions.to(flat)).double() * scaled.scale[:, None])
        return torch.cat(parts).mT.cpu()

    def _at_once(self, most: int, more: int = 0) -> int:
        """Examples of a batch, each of which takes ``more`` bytes beside those of a forward and a backward."""
        return max(1, min(most, MEMORY // (self._example_bytes + more)))

    def _weighted(self, batch: LabelledBatch) -> Matvec:
        product, weight = self.product([batch]), len(self._batches) * len(batch[1]) / self.size
        return lambda vectors: weight * product(vectors)
