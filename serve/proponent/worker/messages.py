"""From plain values to the messages of replies."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from proponent.errors import ProponentError
from proponent.request_options import MEASURES
from proponent.results import (
    DiversityOutcome,
    Explanation,
    FlipSet,
    Highlight,
    Highlights,
    Influence,
    Notice,
    Prediction,
    RemovalEstimate,
    ScoredExamples,
    WeighedWord,
)
from proponent.stages import Stage
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import worker_pb2

_MEASURE_NUMBERS = {measure: number for number, measure in MEASURES.items()}


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
        against_class_id=explanation.against_class_id,
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


def highlight_response(found: Highlights) -> pb.HighlightExamplesResponse:
    """The reply to HighlightExamples."""
    return pb.HighlightExamplesResponse(
        prediction=prediction_message(found.prediction),
        highlights=[_highlight_message(each) for each in found.highlights],
        target_class_id=found.target_class_id,
        against_class_id=found.against_class_id,
        bundle_digest=found.bundle_digest,
    )


def _highlight_message(found: Highlight) -> pb.Highlight:
    return pb.Highlight(
        example_id=found.example_id,
        score=None if found.unavailable else found.score,
        asked=[_token_message(token) for token in found.asked],
        example=[_token_message(token) for token in found.example],
        text=found.text,
        unavailable=found.unavailable,
    )


def _token_message(token: WeighedWord) -> pb.WeighedWord:
    return pb.WeighedWord(start=token.start, end=token.end, weight=token.weight)


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


def stage_messages(request: worker_pb2.WorkerRequest, begun: int, stages: Sequence[Stage]) -> list[worker_pb2.Stage]:
    """The stages of one item: how long it waited until ``begun``, and those of its batch."""
    waited = [Stage("queue", request.sent_ns, begun)] if request.sent_ns else []
    return [worker_pb2.Stage(**vars(each)) for each in (*waited, *stages)]


def error_message(error: ProponentError) -> pb.ItemError:
    """An error of one item as a message."""
    return pb.ItemError(code=error.code, reason=error.reason, message=error.message, field=error.field)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
