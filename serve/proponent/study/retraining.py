"""Models trained again without some examples, and what they lose on held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from proponent.audit.scoring import AuditContext
from proponent.rebuild.retraining import trained_on
from proponent.rebuild.training_set import Batch

_NO_LABEL = -100
"""Of which the cross entropy is 0, by PyTorch's convention."""


def without(batch: Batch, removed: Sequence[int]) -> Batch:
    """The examples that stay."""
    kept = torch.ones(len(batch.labels), dtype=torch.bool)
    kept[list(removed)] = False
    return Batch(batch.inputs[kept], batch.labels[kept], batch.keys[kept])


def left_out(batch: Batch, removed: Sequence[int]) -> Batch:
    """All examples, of which some have a cross entropy of 0: the others keep their batches and their weights 1/n."""
    labels = batch.labels.clone()
    labels[list(removed)] = _NO_LABEL
    return Batch(batch.inputs, labels, batch.keys)


def losses_without(context: AuditContext, removed: Sequence[int], queries: int, seed: int = 0) -> list[float]:
    """Losses of the first held-out examples by a model trained with a seed on the examples that stay."""
    return losses_after(context, without(context.data.batch(range(len(context.data))), removed), queries, seed)


def losses_after(context: AuditContext, examples: Batch, queries: int, seed: int) -> list[float]:
    """Losses of the first held-out examples by a model trained with a seed on some examples."""
    classifier = context.explainer.classifier
    model = trained_on(classifier.spec, examples, seed)
    asked = context.held_out.batch(range(queries))
    with torch.no_grad():
        losses: list[float] = classifier.loss.per_example(model(asked.inputs).double(), asked.labels).tolist()
    return losses
