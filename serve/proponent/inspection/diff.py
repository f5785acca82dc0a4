"""What changed in the reasons: two bundles asked about the same inputs.

Of each input the strongest examples of both ends are compared, and the order of all examples that both bundles
hold. A change of weights, data or curvature shows here before any user sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proponent.attribution.agreement import spearman
from proponent.attribution.inputs import Example
from proponent.classifier import call_factory
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer import EmbeddedQuery, Explainer
from proponent.index.searchable import SearchableRows
from proponent.options import DEFAULT_TOP_K, ExplainOptions, Measure, Target
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation
from proponent.stages import Stopwatch

_BATCH = 32


@dataclass(frozen=True)
class Agreement:
    """Means over some queries.

    Attributes:
        queries: How many.
        overlap: Share of the top-k examples of both ends that both bundles name, 0..1.
        rank_correlation: Spearman's, over all examples that both bundles hold; -1..1.
        predictions_changed: Queries that the two models classify differently.
    """

    queries: int
    overlap: float
    rank_correlation: float
    predictions_changed: int


@dataclass(frozen=True)
class Difference:
    """A comparison: over all queries, and by the class that the old model predicts.

    Attributes:
        per_class: By name, with the class's number where two have one name.
    """

    old: str
    new: str
    measure: str
    top_k: int
    source: str
    common_examples: int
    overall: Agreement
    per_class: dict[str, Agreement]


@dataclass(frozen=True)
class _Compared:
    """One query."""

    class_id: int
    overlap: float
    correlation: float
    changed: bool


def diff(
    old: Path,
    new: Path,
    *,
    queries: int = 100,
    top_k: int = DEFAULT_TOP_K,
    measure: Measure = Measure.INFLUENCE,
    seed: int = 0,
) -> Difference:
    """Compares two bundles on a seeded sample of held-out inputs, or of training inputs where none are held out.

    Raises:
        CorruptBundleError, NotFoundError: A bundle or its dataset cannot be read.
        InvalidInputError: The bundles have other classes or no example in common.
    """
    before, after = Explainer.load(old), Explainer.load(new)
    if before.classifier.class_names != after.classifier.class_names:
        raise InvalidInputError("the bundles have different class names", field="new")
    spec = after.classifier.spec
    factory = spec.held_out or spec.dataset
    key = "held_out" if spec.held_out else "dataset"
    dataset = call_factory(spec, factory, key)  # one for both: they are asked about the same inputs
    sets = [TrainingSet(dataset, explainer.classifier, key) for explainer in (before, after)]
    rows = _common_rows(before, after)
    options = ExplainOptions(measures=(measure,), top_k=top_k)
    compared: list[_Compared] = []
    chosen = sets[0].sample(min(queries, len(sets[0])), seed)
    for start in range(0, len(chosen), _BATCH):
        inputs = [[data.item(position)[1] for position in chosen[start : start + _BATCH]] for data in sets]
        compared += _compare((before, after), inputs, rows, options)
    return Difference(
        old=before.manifest.digest,
        new=after.manifest.digest,
        measure=measure.value,
        top_k=top_k,
        source="held_out" if spec.held_out else "training",
        common_examples=len(rows[0]),
        overall=_mean(compared),
        per_class=_per_class(before.classifier.class_names, compared),
    )


def _common_rows(before: Explainer, after: Explainer) -> tuple[Tensor, Tensor]:
    """Rows of the examples that both hold, in the same order."""
    ids = [entry.example_id for entry in before.catalog.by_rows(range(len(before.index))).values()]
    old, new = before.catalog.rows_of(ids), after.catalog.rows_of(ids)
    common = sorted(set(old) & set(new))
    if len(common) < 2:
        raise InvalidInputError("the bundles have no examples in common", field="new")
    return torch.tensor([old[name] for name in common]), torch.tensor([new[name] for name in common])


def _compare(
    explainers: tuple[Explainer, Explainer],
    inputs: Sequence[Sequence[Example]],
    rows: tuple[Tensor, Tensor],
    options: ExplainOptions,
) -> list[_Compared]:
    # Both explain the label that the old model predicts: another question would have other reasons.
    first = explainers[0].predict(inputs[0])
    targets = [Target(None if isinstance(p, ProponentError) else p.class_id) for p in first]
    answers, scores = [], []
    for explainer, batch, common in zip(explainers, inputs, rows, strict=True):
        asked = [ExplainOptions(options.measures, options.top_k, target) for target in targets]
        answers.append(explainer.explain(batch, asked))
        queries = explainer.embed(batch, targets, Stopwatch())
        scores.append([_scores(explainer.index, query, options.measures[0], common) for query in queries])
    return [
        _compared(old, new, rank_correlation(a, b))
        for old, new, a, b in zip(*answers, *scores, strict=True)
        if isinstance(old, Explanation) and isinstance(new, Explanation)
    ]


def _scores(index: SearchableRows, query: EmbeddedQuery | ProponentError, measure: Measure, rows: Tensor) -> Tensor:
    """Scores of some rows up to a positive factor, [n] float64; zeros where there is none."""
    if isinstance(query, ProponentError):
        return torch.zeros(len(rows), dtype=torch.float64)
    products = index.products(query.direction[None], precise=True)[0].cpu().double()
    return (products * index.scales.of(measure))[rows]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's of two vectors [n]; 1 where both are constant, 0 where one is."""
    constant = [bool((x == x[0]).all()) for x in (first, second)]
    return 1.0 if all(constant) else float(spearman(first, second))


def _compared(old: Explanation, new: Explanation, correlation: float) -> _Compared:
    ends = [
        [{i.example_id for i in side} for side in (answer.results[0].proponents, answer.results[0].opponents)]
        for answer in (old, new)
    ]
    shared = sum(len(a & b) for a, b in zip(*ends, strict=True))
    longest = sum(max(len(a), len(b)) for a, b in zip(*ends, strict=True))
    return _Compared(
        class_id=old.prediction.class_id,
        overlap=shared / longest if longest else 1.0,
        correlation=correlation,
        changed=old.prediction.class_id != new.prediction.class_id,
    )


def _per_class(names: Sequence[str], compared: Sequence[_Compared]) -> dict[str, Agreement]:
    found = {}
    for class_id, name in enumerate(names):
        if own := [each for each in compared if each.class_id == class_id]:
            found[name if names.count(name) == 1 else f"{name} (class {class_id})"] = _mean(own)
    return found


def _mean(compared: Sequence[_Compared]) -> Agreement:
    count = max(len(compared), 1)
    return Agreement(
        queries=len(compared),
        overlap=sum(c.overlap for c in compared) / count,
        rank_correlation=sum(c.correlation for c in compared) / count,
        predictions_changed=sum(c.changed for c in compared),
    )
