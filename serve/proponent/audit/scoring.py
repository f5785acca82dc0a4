"""A bundle's influence on held-out queries at their true labels, as one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proponent.errors import SpecError
from proponent.explainer import Explainer
from proponent.explainer.query import Stopwatch
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Measure, Target


@dataclass(frozen=True)
class Opened:
    """A bundle with the data it was built from.

    Attributes:
        rows: Row in the index of every training example, [N] int64; -1 where it was forgotten.
    """

    explainer: Explainer
    data: TrainingSet
    held_out: TrainingSet
    rows: Tensor


def open_bundle(bundle: Path) -> Opened:
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
    return Opened(explainer, data, held_out, torch.tensor([found.get(name, -1) for name in names]))


def influence_matrix(opened: Opened, positions: list[int], measure: Measure = Measure.INFLUENCE) -> Tensor:
    """Scores [Q, N] float64 of all training examples (0 for forgotten ones) on held-out queries."""
    index = opened.explainer.index
    weights = index.scales.of(measure)
    parts = []
    for position in positions:
        _, tensor, label = opened.held_out.item(position)
        [query] = opened.explainer.embed([tensor], [Target(label)], Stopwatch())
        if isinstance(query, Exception):
            raise query
        scores = index.products(query.direction[None])[0].double().cpu() * weights * query.norm
        parts.append(torch.where(opened.rows >= 0, scores[opened.rows.clamp(min=0)], 0.0))
    return torch.stack(parts)
