"""An explanation without the index: solves with the objective's own curvature, and a pass over the training set.

It is what an index saves: seconds to hours for each input instead of milliseconds. It shows how far the index may be
trusted. The influence function takes one solve; RelatIF takes one more for each training example that it ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from proponent.attribution.division import ratio
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.inputs import Example
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer import Explainer
from proponent.explainer.answers import Answers
from proponent.explainer.query import EmbeddedQuery, QueryEmbedder
from proponent.index.search import Hits
from proponent.index.tombstones import Tombstones
from proponent.inspection.inverses import Inverse, Solver, inverse_of
from proponent.inspection.objective import Objective
from proponent.options import ExplainOptions, Measure
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation, NoticeCode, Quality
from proponent.stages import Stopwatch
from proponent.v1 import explanation_pb2 as pb
from proponent.worker.inputs import requested_input

STRONGEST = 30


@dataclass(frozen=True)
class Effort:
    """How much solves may take of a network whose every product with A takes seconds or minutes.

    Attributes:
        steps: Of one solve (see ``inverse_of``); None: 200, 1,000 and 400, and no more than the solve needs.
        examples: How many training examples the curvature is taken of, a seeded sample; None: all.
        norms: How many training examples RelatIF solves for and ranks: those of the largest |influence|. With as
            many as there are, it ranks them all.
    """

    steps: int | None = None
    examples: int | None = None
    norms: int = STRONGEST


WHOLE = Effort()


@dataclass(frozen=True)
class Solve:
    """How the solves of an explanation ended.

    Attributes:
        solver: Which one.
        curvature: "hessian", or "gauss-newton" for networks, whose Hessian is indefinite.
        examples: How many training examples it was taken of.
        damping: Added to the objective's curvature, which holds its weight decay.
        residual: ``||g - (A + damping I) x|| / ||g||`` of the input's gradient g.
        seconds: Of that solve alone.
        norms: How many training examples RelatIF solved for; 0 where it was not asked for.
        norms_residual: The largest residual of theirs.
        norms_seconds: Of all of theirs.
    """

    solver: str
    curvature: str
    examples: int
    damping: float
    residual: float
    seconds: float
    norms: int = 0
    norms_residual: float = 0.0
    norms_seconds: float = 0.0


@dataclass(frozen=True)
class Norms:
    """What RelatIF divides the influence of some training examples by, [n] float64; 0 where it is not defined.

    Attributes:
        by_measure: ``||(A + damping I)^-1 g_i||`` of theta-RelatIF and ``sqrt(g_i^T (A + damping I)^-1 g_i)`` of
            l-RelatIF, which an unfinished solve may leave without a root.
        residual: The largest of the solves.
    """

    by_measure: Mapping[Measure, Tensor]
    residual: float


def norms_by_solving(inverse: Inverse, positions: Sequence[int]) -> Norms:
    """The norms of some training examples, a solve each, as many side by side as the memory holds."""
    objective = inverse.objective
    starts = range(0, len(positions), objective.columns)
    parts = [_solved_norms(inverse, positions[start : start + objective.columns]) for start in starts]
    by_measure = {measure: torch.cat([part.by_measure[measure] for part in parts]) for measure in parts[0].by_measure}
    return Norms(by_measure, max(part.residual for part in parts))


def _solved_norms(inverse: Inverse, positions: Sequence[int]) -> Norms:
    right, scale = inverse.objective.gradients(positions)
    solution = inverse.solve(right)
    lengths, products = solution.double().norm(dim=0), (right.double() * solution.double()).sum(dim=0)
    by_measure = {Measure.THETA_RELATIF: lengths, Measure.L_RELATIF: products.clamp(min=0).sqrt()}
    return Norms(
        {measure: (of * scale).cpu() for measure, of in by_measure.items()}, inverse.residual(right, solution)
    )


def explain_by_solver(
    bundle: Path,
    asked: pb.ExplainRequest,
    options: ExplainOptions,
    solver: Solver,
    damping: float | None = None,
    effort: Effort = WHOLE,
) -> tuple[Explanation, Solve]:
    """Explains one input from the training set that a bundle was built from.

    Args:
        bundle: Names model, data and examples; its rows are not read, and self-influence is what it holds.
        asked: Holds the input.
        options: Which measures, which label, and how many examples.
        solver: Which solver.
        damping: Added to the curvature; None takes the bundle's where it is absolute, else 0.
        effort: What the solves may take; the pass over the training set is always one over all of it.

    Raises:
        InvalidInputError: The input is unusable, or filters or a diverse selection are asked for.
        CurvatureError: The solver met a direction of curvature <= 0, or did not converge at all.
    """
    if options.diversity or options.filter.active:
        raise InvalidInputError("a solver answers without filters and diverse selection", field="solver")
    explainer, clock = Explainer.load(bundle), Stopwatch()
    query = _query(explainer, requested_input(asked, explainer), options, clock)
    spec = explainer.classifier.spec
    data = TrainingSet.open(explainer.classifier, spec.dataset, forgotten=Tombstones.beside(bundle).ids())
    objective = Objective(explainer.classifier, explainer.classifier.find_layers(), data, effort.examples)
    manifest = explainer.manifest
    added = damping if damping is not None else 0.0 if manifest.damping_relative else manifest.damping
    with clock.stage("solve"):
        inverse = inverse_of(objective, solver, added, effort.steps)
        solution = inverse.solve(query.direction.to(objective.dtype))
    residual = inverse.residual(query.direction.to(objective.dtype), solution)
    with clock.stage("search"):
        influence = objective.products_with_gradients(solution[:, None])[0] * query.norm
    solve = Solve(solver.value, objective.curvature, objective.size, added, residual, clock.seconds["solve"])
    scores = {Measure.INFLUENCE: influence}
    if set(options.measures) - {Measure.INFLUENCE}:
        strongest = influence.abs().argsort(descending=True, stable=True)[: effort.norms]
        with clock.stage("norms"):
            norms = norms_by_solving(inverse, strongest.tolist())
        scores |= {measure: _relative(influence, strongest, of) for measure, of in norms.by_measure.items()}
        solve = replace(
            solve, norms=len(strongest), norms_residual=norms.residual, norms_seconds=clock.seconds["norms"]
        )
    ends = {measure: _ends(explainer, data, scores[measure], options.top_k) for measure in options.measures}
    return _explanation(explainer, query, ends, options, clock), solve


def _relative(influence: Tensor, strongest: Tensor, norms: Tensor) -> Tensor:
    """The influence of some examples by their norms, and zero, which is not listed, for the others."""
    scores = torch.zeros_like(influence)
    scores[strongest] = ratio(influence[strongest], norms)
    return scores


def _query(explainer: Explainer, value: Example, options: ExplainOptions, clock: Stopwatch) -> EmbeddedQuery:
    classifier = explainer.classifier
    embedder = QueryEmbedder(classifier, _FlatGradients(), classifier.find_layers())
    [query] = embedder.embed([value], [options.target], clock)
    if isinstance(query, ProponentError):
        raise query
    return query


class _FlatGradients:
    """The gradient itself in place of its embedding."""

    def embed(self, gradients: LayerGradients) -> Tensor:
        """[B, P]."""
        return flat_gradients(gradients)


def _ends(explainer: Explainer, data: TrainingSet, scores: Tensor, top_k: int) -> tuple[Hits, Hits]:
    """The highest positive and the lowest negative scores, by their rows in the index."""
    names = [data.example_id(position) for position in range(len(data))]
    rows = explainer.catalog.rows_of(names)
    ends = []
    for sign in (1, -1):
        order = (sign * scores).argsort(descending=True, stable=True).tolist()
        chosen = [i for i in order[:top_k] if sign * float(scores[i]) > 0]
        ends.append(Hits([rows[names[i]] for i in chosen], [float(scores[i]) for i in chosen]))
    return ends[0], ends[1]


def _explanation(
    explainer: Explainer,
    query: EmbeddedQuery,
    ends: Mapping[Measure, tuple[Hits, Hits]],
    options: ExplainOptions,
    clock: Stopwatch,
) -> Explanation:
    manifest = explainer.manifest
    answers = Answers(manifest, explainer.catalog, explainer.classifier.class_names, omitted=0)
    return Explanation(
        prediction=query.prediction,
        results=answers.results(ends, {}, options),
        target_class_id=query.target,
        against_class_id=query.against,
        bundle_digest=manifest.digest,
        quality=Quality(manifest.curvature, 1.0),
        train_size=manifest.train_size,
        notices=[each for each in answers.notices(query, ()) if each.code is not NoticeCode.SCORES_DISTILLED],
        timings=dict(clock.seconds),
    )
