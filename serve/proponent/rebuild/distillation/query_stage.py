"""What a model says of the pseudo-queries: their embedding, by chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.inputs import Inputs
from proponent.classifier import Classifier
from proponent.rebuild.context import Compute, RebuildContext, Task, chunked, concatenated
from proponent.rebuild.distillation.pseudo_queries import PseudoQueries, open_unlabelled
from proponent.rebuild.ekfac import stored_embedding
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import Batch

Asked = Mapping[str, Tensor]
"""Pseudo-queries as a model embeds them: ``phi`` [n, K] float32 and ``scales`` [n] float64, and their ``labels``."""


def ask(context: RebuildContext, queries: PseudoQueries, key: str, labels: Tensor | None = None) -> Asked:
    """Pseudo-queries as the model embeds them whose stages are finished.

    Args:
        context: Of that model.
        queries: All of them.
        key: Names their stages; it tells them from others.
        labels: At which they are asked about, [n]; by default those that the model predicts.
    """
    given, stage = f"given-{key}", f"asked-{key}"
    context.workspace.cached(given, lambda: _given(queries, labels))
    task = QueryTask(given, labels is not None, len(queries), queries.seed, queries)
    names = context.map("pseudo-queries", task, chunked(stage, range(len(queries)), context.batching.chunk))
    return concatenated([context.workspace.load(name) for name in names])


def _given(queries: PseudoQueries, labels: Tensor | None) -> dict[str, Tensor]:
    """What other processes must know: labels, and what the unlabelled inputs were when they were first read."""
    found = {"labels": torch.empty(0) if labels is None else labels}
    if queries.unlabelled is not None:
        readings = queries.unlabelled.readings
        known = readings.known()
        found |= {"positions": torch.tensor(known), **readings.of(known)}
    return found


@dataclass(frozen=True)
class QueryTask(Task):
    """Embeddings of pseudo-queries, by their numbers.

    Attributes:
        given: Stage of their labels, and of what the unlabelled inputs are.
        has_labels: Whether there are any.
        count: Of all.
        seed: Of their draws.
        queries: As they were opened; other processes open their own.
    """

    given: str
    has_labels: bool
    count: int
    seed: int
    queries: PseudoQueries | None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"queries": None}

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        given = context.workspace.load(self.given)
        labels = given["labels"] if self.has_labels else None
        queries, embedding = self.queries or self._opened(context, given), stored_embedding(context)

        def asked(numbers: Sequence[int]) -> dict[str, Tensor]:
            inputs = queries.inputs(numbers).to(context.device)
            wanted = _predicted(context.classifier, inputs) if labels is None else labels[list(numbers)]
            wanted = wanted.to(context.device)
            batch = Batch(inputs, wanted, torch.zeros_like(wanted))
            scaled, gradients = scaled_gradients(context.classifier, context.layers, batch)
            found = {"phi": embedding.embed(gradients), "scales": scaled.scale, "labels": wanted}
            return {name: value.cpu() for name, value in found.items()}

        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            size = context.batching.block
            return concatenated([asked(numbers[start : start + size]) for start in range(0, len(numbers), size)])

        return compute

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        return f"pseudo-query {item}"

    def _opened(self, context: RebuildContext, given: Mapping[str, Tensor]) -> PseudoQueries:
        unlabelled = open_unlabelled(context.classifier, context.data, probe=False)
        if unlabelled is not None:
            unlabelled.readings.add(given["positions"].tolist(), given)
        return PseudoQueries(context.data, unlabelled, self.count, self.seed)


def _predicted(classifier: Classifier, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return classifier.loss.predict(classifier.model(inputs))
