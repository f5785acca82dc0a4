"""A bundle's influence on held-out queries at their true labels, as one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proponent.errors import SpecError
from proponent.explainer import Explainer
from proponent.options import Measure, Target
from proponent.rebuild.training_set import TrainingSet
from proponent.stages import Stopwatch

QUERIES_AT_ONCE = 32


@dataclass(frozen=True)
class AuditContext:
    """A bundle with the data it was built from.

    Attributes:
        bundle: Its directory.
        rows: Row in the index of every training example, [N] int64; -1 where it was forgotten.
    """

    bundle: Path
    explainer: Explainer
    data: TrainingSet
    held_out: TrainingSet
    rows: Tensor


def open_bundle(bundle: Path) -> AuditContext:
    """Opens a bundle for an audit.

    Raises:
        SpecError: The spec has no held-out set.
    """
    explainer = Explainer.load(bundle)
    spec = explainer.classifier.spec
    if spec.held_out is None:
        raise SpecError("key 'held_out' is missing: an audit needs held-out queries", field="held_out")
    data = TrainingSet.open(explainer.classifier, spec.dataset)
    held_out = TrainingSet.open(explainer.classifier, spec.held_out, "held_out")
    names = [data.example_id(position) for position in range(len(data))]
    found = explainer.catalog.rows_of(names)
    return AuditContext(bundle, explainer, data, held_out, torch.tensor([found.get(name, -1) for name in names]))


def influence_matrix(context: AuditContext, positions: list[int], measure: Measure = Measure.INFLUENCE) -> Tensor:
    """Scores [Q, N] float64 of all training examples (0 for forgotten ones) on held-out queries."""
    weights = context.explainer.index.scales.of(measure)
    parts = []
    for start in range(0, len(positions), QUERIES_AT_ONCE):
        directions, norms = held_out_queries(context, positions[start : start + QUERIES_AT_ONCE])
        products = context.explainer.index.products(directions, precise=True).double().cpu()
        parts.append(products * weights * norms[:, None])
    scores = torch.cat(parts)
    return torch.where(context.rows >= 0, scores[:, context.rows.clamp(min=0)], 0.0)


def held_out_queries(context: AuditContext, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Directions [Q, K] and norms [Q] float64 of held-out examples at their true labels."""
    items = [context.held_out.item(position) for position in positions]
    targets = [Target(label) for _, _, label in items]
    found = []
    for query in context.explainer.embed([tensor for _, tensor, _ in items], targets, Stopwatch()):
        if isinstance(query, Exception):
            raise query
        found.append(query)
    norms = torch.tensor([query.norm for query in found], dtype=torch.float64)
    return torch.stack([query.direction for query in found]), norms
