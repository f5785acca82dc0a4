"""An explanation without the index: one solve with the objective's own curvature, and a pass over the training set.

It is what an index saves: seconds to hours for each input instead of milliseconds. It shows how far the index may be
trusted, and gives the influence function alone; RelatIF would take a solve for each training example.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proponent.attribution.functional import LabelledBatch
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import Layers, num_parameters
from proponent.attribution.solvers import Matvec, arnoldi, cg, ggn_matvec, hessian_matvec, lissa
from proponent.classifier import Classifier
from proponent.errors import CurvatureError, InvalidInputError, ProponentError
from proponent.explainer import Explainer
from proponent.explainer.answers import Answers
from proponent.explainer.query import EmbeddedQuery, QueryEmbedder
from proponent.index.search import Hits
from proponent.index.tombstones import Tombstones
from proponent.options import ExplainOptions, Measure
from proponent.rebuild.memory import FLOAT, GIB, example_bytes
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation, Quality
from proponent.stages import Stopwatch
from proponent.v1 import explanation_pb2 as pb
from proponent.worker.inputs import requested_input


class Solver(enum.Enum):
    """How (A + damping I) x = g is solved; see ``attribution.solvers``."""

    CG = "cg"
    LISSA = "lissa"
    ARNOLDI = "arnoldi"


BATCH = 256
MEMORY = 2 * GIB
"""Bytes that the examples of a batch may take, which makes the batches of large networks smaller."""
TOLERANCE = 1e-4
STEPS = {Solver.CG: 200, Solver.LISSA: 1000, Solver.ARNOLDI: 400}
SAMPLE_SEED = 7
_SCALE_TRIES = 8


@dataclass(frozen=True)
class Solve:
    """How a solve ended.

    Attributes:
        solver: Which one.
        curvature: "hessian", or "gauss-newton" for networks, whose Hessian is indefinite.
        examples: How many training examples it was taken of.
        damping: Added to the objective's curvature, which holds its weight decay.
        residual: ``||g - (A + damping I) x|| / ||g||``.
        seconds: Of the solve alone.
    """

    solver: str
    curvature: str
    examples: int
    damping: float
    residual: float
    seconds: float


@dataclass(frozen=True)
class Effort:
    """How much a solve may take of a network whose every product with A takes seconds or minutes.

    Attributes:
        steps: Most products of conjugate gradients, steps of LiSSA's series, or vectors of Arnoldi's basis (half of
            which are kept as eigenvectors); None: 200, 1,000 and 400, and no more than the solve needs.
        examples: How many training examples the curvature is taken of, a seeded sample; None: all.
    """

    steps: int | None = None
    examples: int | None = None

    def steps_of(self, solver: Solver) -> int:
        """The steps of a solver."""
        return STEPS[solver] if self.steps is None else self.steps


WHOLE = Effort()


class Objective:
    """The curvature A of a training objective, by products; its examples are held in memory.

    Args:
        classifier, layers, data: Whose objective it is.
        examples: How many training examples it is taken of, a seeded sample; None takes all.
    """

    def __init__(
        self, classifier: Classifier, layers: Layers, data: TrainingSet, examples: int | None = None
    ) -> None:
        self._classifier = classifier
        self._layers = layers
        chosen = data.sample(len(data) if examples is None else examples, SAMPLE_SEED)
        batches = data.batches(at_once(classifier, layers, data, BATCH), chosen)
        self._batches = [(batch.inputs, batch.labels, batch.keys) for batch in batches]
        self.size = len(chosen)
        self.exact = classifier.spec.curvature.kind == "exact"

    @property
    def curvature(self) -> str:
        """Which matrix A is."""
        return "hessian" if self.exact else "gauss-newton"

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

    def _weighted(self, batch: LabelledBatch) -> Matvec:
        product, weight = self.product([batch]), len(self._batches) * len(batch[1]) / self.size
        return lambda vectors: weight * product(vectors)


def products_with_gradients(classifier: Classifier, layers: Layers, data: TrainingSet, solution: Tensor) -> Tensor:
    """``g_i^T x`` for every training example and each solution [P, Q], [Q, N] float64."""
    parts = []
    gradients_bytes = 3 * FLOAT * num_parameters(layers)
    for batch in data.batches(at_once(classifier, layers, data, BATCH // 2, gradients_bytes)):
        scaled, gradients = scaled_gradients(classifier, layers, batch)
        flat = flat_gradients(gradients)
        parts.append((flat @ solution.to(flat)).double() * scaled.scale[:, None])
    return torch.cat(parts).mT.cpu()


def at_once(classifier: Classifier, layers: Layers, data: TrainingSet, most: int, more: int = 0) -> int:
    """Examples of a batch, each of which takes ``more`` bytes beside those of a forward and a backward."""
    return max(
        1, min(most, MEMORY // (example_bytes(classifier, layers, data.batch([data.largest()]).inputs) + more))
    )


def explain_by_solver(
    bundle: Path,
    asked: pb.ExplainRequest,
    options: ExplainOptions,
    solver: Solver,
    damping: float | None = None,
    effort: Effort = WHOLE,
) -> tuple[Explanation, Solve]:
    """Explains one input by the influence function, from the training set that the bundle was built from.

    Args:
        bundle: Names model, data and examples; its rows are not read.
        asked: Holds the input.
        options: Which label, and how many examples.
        solver: Which solver.
        damping: Added to the curvature; None takes the bundle's where it is absolute, else 0.
        effort: What the solve may take; the pass over the training set is always one over all of it.

    Raises:
        InvalidInputError: The input is unusable, or more is asked for than the measure influence: other measures,
            filters, a diverse selection.
        CurvatureError: The solver met a direction of curvature <= 0, or did not converge at all.
    """
    if options.measures != (Measure.INFLUENCE,) or options.diversity or options.filter.active:
        raise InvalidInputError(
            "a solver answers for the measure influence alone, without filters and diverse selection", field="solver"
        )
    explainer, clock = Explainer.load(bundle), Stopwatch()
    classifier, layers = explainer.classifier, explainer.classifier.find_layers()
    value = requested_input(asked, explainer)
    [query] = QueryEmbedder(classifier, _FlatGradients(), layers).embed([value], [options.target], clock)
    if isinstance(query, ProponentError):
        raise query
    data = TrainingSet.open(classifier, classifier.spec.dataset, forgotten=Tombstones.beside(bundle).ids())
    objective = Objective(classifier, layers, data, effort.examples)
    manifest = explainer.manifest
    added = damping if damping is not None else 0.0 if manifest.damping_relative else manifest.damping
    with clock.stage("solve"):
        solution = _solve(objective, query.direction, solver, added, effort.steps_of(solver))
    residual = _residual(objective, query.direction, solution, added)
    with clock.stage("search"):
        scores = products_with_gradients(classifier, layers, data, solution[:, None])[0] * query.norm
    found = _explanation(explainer, query, _ends(explainer, data, scores, options.top_k), options, clock)
    return found, Solve(solver.value, objective.curvature, objective.size, added, residual, clock.seconds["solve"])


class _FlatGradients:
    """The gradient itself in place of its embedding."""

    def embed(self, gradients: LayerGradients) -> Tensor:
        """[B, P]."""
        return flat_gradients(gradients)


def _solve(objective: Objective, gradient: Tensor, solver: Solver, damping: float, steps: int) -> Tensor:
    right = gradient.double() if objective.exact else gradient
    if solver is Solver.CG:
        return cg(objective.product(), right, damping=damping, tol=TOLERANCE, max_iterations=steps)[0]
    if solver is Solver.LISSA:
        return _lissa(objective, right, damping, steps)
    return arnoldi(
        objective.product(),
        len(right),
        rank=min(-(-steps // 2), len(right)),
        iterations=min(steps, len(right)),
        damping=damping,
        dtype=right.dtype,
        device=right.device,
    ).ihvp(right)


def _lissa(objective: Objective, right: Tensor, damping: float, depth: int) -> Tensor:
    """LiSSA with the smallest scale tried that does not diverge: twice the largest eigenvalue and its doubles."""
    krylov = arnoldi(
        objective.product(), len(right), rank=1, iterations=min(8, len(right)), dtype=right.dtype, device=right.device
    )
    scale, products = 2 * (float(krylov.eigenvalues[0]) + damping), objective.sampled_products()
    for _ in range(_SCALE_TRIES - 1):
        try:
            return lissa(products, right, damping=damping, scale=scale, depth=depth)
        except CurvatureError:
            scale *= 2
    return lissa(products, right, damping=damping, scale=scale, depth=depth)


def _residual(objective: Objective, gradient: Tensor, solution: Tensor, damping: float) -> float:
    right = gradient.to(solution)
    left = right - objective.product()(solution) - damping * solution
    return float(left.norm() / right.norm()) if bool(right.any()) else 0.0


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
    explainer: Explainer, query: EmbeddedQuery, ends: tuple[Hits, Hits], options: ExplainOptions, clock: Stopwatch
) -> Explanation:
    manifest = explainer.manifest
    answers = Answers(manifest, explainer.catalog, explainer.classifier.class_names, omitted=0)
    return Explanation(
        prediction=query.prediction,
        results=answers.results({Measure.INFLUENCE: ends}, {}, options),
        target_class_id=query.target,
        against_class_id=query.against,
        bundle_digest=manifest.digest,
        quality=Quality(manifest.curvature, 1.0),
        train_size=manifest.train_size,
        notices=answers.notices(query, options.measures),
        timings=dict(clock.seconds),
    )
