"""Between protobuf messages and plain values; the handler's only translation."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from proponent.errors import (
    InvalidInputError,
    ProponentError,
)
from proponent.options import (
    DEFAULT_TOP_K,
    Diversity,
    Estimator,
    ExplainOptions,
    Filter,
    Measure,
    Redundancy,
    Target,
    View,
)
from proponent.results import (
    DiversityOutcome,
    Explanation,
    FlipSet,
    Influence,
    Notice,
    Prediction,
    RemovalEstimate,
    ScoredExamples,
)
from proponent.v1 import explanation_pb2 as pb

DEFAULT_CANDIDATES = Diversity().candidates
DEFAULT_GAMMA = Diversity().gamma

MEASURES: Mapping[int, Measure] = {
    pb.MEASURE_INFLUENCE: Measure.INFLUENCE,
    pb.MEASURE_THETA_RELATIF: Measure.THETA_RELATIF,
    pb.MEASURE_L_RELATIF: Measure.L_RELATIF,
}
_MEASURE_NUMBERS = {measure: number for number, measure in MEASURES.items()}
REDUNDANCIES: Mapping[int, Redundancy] = {
    pb.REDUNDANCY_SUM: Redundancy.SUM,
    pb.REDUNDANCY_UNSPECIFIED: Redundancy.SUM,
    pb.REDUNDANCY_FACILITY_LOCATION: Redundancy.FACILITY_LOCATION,
    pb.REDUNDANCY_MMD: Redundancy.MMD,
}
ESTIMATORS: Mapping[int, Estimator] = {
    pb.ESTIMATOR_UNSPECIFIED: Estimator.FIRST_ORDER,
    pb.ESTIMATOR_FIRST_ORDER: Estimator.FIRST_ORDER,
    pb.ESTIMATOR_SECOND_ORDER: Estimator.SECOND_ORDER,
    pb.ESTIMATOR_INFLUENCE_SUM: Estimator.INFLUENCE_SUM,
}


def options_from(request: pb.ExplainRequest) -> ExplainOptions:
    """Options of a request.

    Raises:
        InvalidInputError: An unknown measure, redundancy or view, or top_k not above 0.
    """
    top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
    if top_k < 1:
        raise InvalidInputError(f"top_k is {top_k}, expected at least 1", field="top_k", reason="TOP_K_OUT_OF_RANGE")
    return ExplainOptions(
        measures=_measures(request),
        top_k=top_k,
        target=_target(request.target),
        filter=Filter(
            frozenset(request.filter.allow_class_ids),
            frozenset(request.filter.deny_class_ids),
            tuple(request.filter.exclude_example_ids),
        ),
        diversity=_diversity(request.diversity) if request.HasField("diversity") else None,
        view=_view(request.view),
    )


def _measures(request: pb.ExplainRequest) -> tuple[Measure, ...]:
    wanted = [number for number in request.measures if number != pb.MEASURE_UNSPECIFIED]
    unknown = [number for number in wanted if number not in MEASURES]
    if unknown:
        raise InvalidInputError(
            f"measure {unknown[0]} is unknown, expected one of {', '.join(pb.Measure.keys()[1:])}",
            field="measures",
            reason="MEASURE_UNKNOWN",
        )
    return tuple(MEASURES[number] for number in wanted) or tuple(Measure)


def _target(target: pb.Target) -> Target:
    kind = target.WhichOneof("kind")
    if kind == "contrast":
        return Target(target.contrast.for_class_id, target.contrast.against_class_id)
    return Target(target.class_id if kind == "class_id" else None)


def _diversity(diversity: pb.Diversity) -> Diversity:
    if diversity.redundancy not in REDUNDANCIES:
        raise InvalidInputError(f"redundancy {diversity.redundancy} is unknown", field="diversity.redundancy")
    _check_weight(diversity.gamma, "gamma")
    _check_weight(diversity.bandwidth, "bandwidth")
    _check_weight(diversity.max_influence_loss, "max_influence_loss", most=1.0)
    strength = diversity.WhichOneof("strength")
    return Diversity(
        redundancy=REDUNDANCIES[diversity.redundancy],
        gamma=diversity.gamma if strength == "gamma" else DEFAULT_GAMMA,
        max_influence_loss=diversity.max_influence_loss if strength == "max_influence_loss" else None,
        candidates=diversity.candidates or DEFAULT_CANDIDATES,
        bandwidth=diversity.bandwidth or None,
        whole_dataset=diversity.whole_dataset,
        unscaled=diversity.unscaled,
    )


def _check_weight(value: float, name: str, most: float = math.inf) -> None:
    if not (math.isfinite(value) and 0 <= value <= most):
        expected = "a finite number >= 0" if most == math.inf else f"0 to {most:g}"
        raise InvalidInputError(f"diversity.{name} is {value}, expected {expected}", field=f"diversity.{name}")


def _view(number: int) -> View:
    if number not in (pb.VIEW_UNSPECIFIED, *View):
        raise InvalidInputError(f"view {number} is unknown, expected {', '.join(pb.View.keys())}", field="view")
    return View(number) if number else View.ID_ONLY


def prediction_message(prediction: Prediction) -> pb.Prediction:
    """A prediction as a message."""
    return pb.Prediction(class_id=prediction.class_id, label=prediction.label, probabilities=prediction.probabilities)


def predict_response(prediction: Prediction, bundle_digest: str, request_id: str) -> pb.PredictResponse:
    """The reply to Predict."""
    return pb.PredictResponse(
        prediction=prediction_message(prediction), bundle_digest=bundle_digest, request_id=request_id
    )


def explain_response(explanation: Explanation, request_id: str) -> pb.ExplainResponse:
    """The reply to Explain, with an id of its own."""
    return pb.ExplainResponse(
        prediction=prediction_message(explanation.prediction),
        results=[
            pb.MeasureResult(
                measure=_MEASURE_NUMBERS[result.measure],  # type: ignore[arg-type]
                proponents=[influence_message(influence) for influence in result.proponents],
                opponents=[influence_message(influence) for influence in result.opponents],
                proponents_diversity=_outcome_message(result.proponents_diversity),
                opponents_diversity=_outcome_message(result.opponents_diversity),
            )
            for result in explanation.results
        ],
        target_class_id=explanation.target_class_id,
        bundle_digest=explanation.bundle_digest,
        quality=pb.Quality(
            curvature=explanation.quality.curvature,
            kept_energy=explanation.quality.kept_energy,
            audit=struct(explanation.quality.audit),
        ),
        train_size=explanation.train_size,
        notices=[notice_message(notice) for notice in explanation.notices],
        timings=[pb.Timing(stage=name, duration=_duration(value)) for name, value in explanation.timings.items()],
        explanation_id=str(uuid.uuid4()),
        request_id=request_id,
    )


def score_response(scored: ScoredExamples) -> pb.ScoreExamplesResponse:
    """The reply to ScoreExamples."""
    return pb.ScoreExamplesResponse(
        prediction=prediction_message(scored.prediction),
        results=[
            pb.MeasureScores(
                measure=_MEASURE_NUMBERS[result.measure],  # type: ignore[arg-type]
                scores=[influence_message(influence) for influence in result.scores],
            )
            for result in scored.results
        ],
        bundle_digest=scored.bundle_digest,
        notices=[notice_message(notice) for notice in scored.notices],
        train_size=scored.train_size,
    )


def estimator_from(request: pb.EstimateRemovalRequest) -> Estimator:
    """The estimator that a request names.

    Raises:
        InvalidInputError: An unknown one.
    """
    if request.estimator not in ESTIMATORS:
        raise InvalidInputError(f"estimator {request.estimator} is unknown", field="estimator")
    if request.estimator == pb.ESTIMATOR_UNSPECIFIED and request.second_order:
        return Estimator.SECOND_ORDER
    return ESTIMATORS[request.estimator]


def removal_response(estimate: RemovalEstimate) -> pb.EstimateRemovalResponse:
    """The reply to EstimateRemoval."""
    return pb.EstimateRemovalResponse(
        prediction=prediction_message(estimate.prediction),
        loss_change=estimate.loss_change,
        probabilities_after=estimate.probabilities_after,
        bundle_digest=estimate.bundle_digest,
        notices=[notice_message(notice) for notice in estimate.notices],
        group_size=estimate.group_size,
        train_size=estimate.train_size,
    )


def flip_response(found: FlipSet) -> pb.FindFlipSetResponse:
    """The reply to FindFlipSet."""
    return pb.FindFlipSetResponse(
        prediction=prediction_message(found.prediction),
        members=[influence_message(influence) for influence in found.members],
        flipped_class_id=found.flipped_class_id,
        probabilities_after=found.probabilities_after,
        bundle_digest=found.bundle_digest,
        notices=[notice_message(notice) for notice in found.notices],
    )


def influence_message(influence: Influence) -> pb.Influence:
    """One training example of an answer as a message."""
    return pb.Influence(**vars(influence))


def _outcome_message(outcome: DiversityOutcome | None) -> pb.DiversityOutcome | None:
    return None if outcome is None else pb.DiversityOutcome(**vars(outcome))


def notice_message(notice: Notice) -> pb.Notice:
    """A notice as a message."""
    return pb.Notice(code=notice.code.value, message=notice.message, count=notice.count)


def struct(values: Mapping[str, object]) -> Struct:
    """A JSON-like mapping as a Struct."""
    message = Struct()
    message.update(values)  # type: ignore[arg-type]
    return message


def error_message(error: ProponentError) -> pb.ItemError:
    """An error of one item as a message."""
    return pb.ItemError(code=error.code, reason=error.reason, message=error.message, field=error.field)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
