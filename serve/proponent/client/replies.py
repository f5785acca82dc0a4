"""From the messages of the service to plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from proponent.options import Measure
from proponent.results import (
    DisclosureLevel,
    DiversityOutcome,
    Explanation,
    FlipSet,
    Highlight,
    Highlights,
    Influence,
    MeasureResult,
    MeasureScores,
    ModelInfo,
    Notice,
    NoticeCode,
    Prediction,
    Quality,
    RemovalEstimate,
    ScoredExamples,
    Suspect,
    Suspects,
    TrainingExample,
    WeighedWord,
)
from proponent.signature import Column, ColumnType, InputKind, InputSignature, TensorSignature
from proponent.v1 import explanation_pb2 as pb


def prediction(message: pb.PredictResponse) -> Prediction:
    """The reply to Predict."""
    return _prediction(message.prediction)


def explanation(message: pb.ExplainResponse) -> Explanation:
    """The reply to Explain."""
    return Explanation(
        prediction=_prediction(message.prediction),
        results=tuple(
            MeasureResult(
                _measure(result.measure),
                _influences(result.proponents),
                _influences(result.opponents),
                _outcome(result, "proponents_diversity"),
                _outcome(result, "opponents_diversity"),
            )
            for result in message.results
        ),
        target_class_id=message.target_class_id,
        against_class_id=message.against_class_id if message.HasField("against_class_id") else None,
        bundle_digest=message.bundle_digest,
        quality=Quality(message.quality.curvature, message.quality.kept_energy, MessageToDict(message.quality.audit)),
        train_size=message.train_size,
        notices=_notices(message.notices),
        disclosure_level=disclosure_level_of(message),
        timings={timing.stage: timing.duration.ToNanoseconds() / 1e9 for timing in message.timings},
    )


def scored_examples(message: pb.ScoreExamplesResponse) -> ScoredExamples:
    """The reply to ScoreExamples."""
    return ScoredExamples(
        prediction=_prediction(message.prediction),
        results=tuple(
            MeasureScores(_measure(result.measure), _influences(result.scores)) for result in message.results
        ),
        bundle_digest=message.bundle_digest,
        train_size=message.train_size,
        notices=_notices(message.notices),
        disclosure_level=disclosure_level_of(message),
    )


def highlights(message: pb.HighlightExamplesResponse) -> Highlights:
    """The reply to HighlightExamples."""
    return Highlights(
        prediction=_prediction(message.prediction),
        highlights=tuple(_highlight(each) for each in message.highlights),
        target_class_id=message.target_class_id,
        against_class_id=message.against_class_id if message.HasField("against_class_id") else None,
        bundle_digest=message.bundle_digest,
        disclosure_level=disclosure_level_of(message),
    )


def _highlight(message: pb.Highlight) -> Highlight:
    sides = {"asked": _tokens(message.asked), "example": _tokens(message.example)}
    return Highlight(**{**values_of(message), **sides})


def _tokens(messages: Iterable[pb.WeighedWord]) -> tuple[WeighedWord, ...]:
    return tuple(WeighedWord(**values_of(message)) for message in messages)


def removal_estimate(message: pb.EstimateRemovalResponse) -> RemovalEstimate:
    """The reply to EstimateRemoval."""
    return RemovalEstimate(
        prediction=_prediction(message.prediction),
        loss_change=message.loss_change,
        probabilities_after=tuple(message.probabilities_after),
        group_size=message.group_size,
        bundle_digest=message.bundle_digest,
        train_size=message.train_size,
        notices=_notices(message.notices),
        disclosure_level=disclosure_level_of(message),
    )


def flip_set(message: pb.FindFlipSetResponse) -> FlipSet:
    """The reply to FindFlipSet."""
    return FlipSet(
        prediction=_prediction(message.prediction),
        members=_influences(message.members),
        flipped_class_id=message.flipped_class_id,
        probabilities_after=tuple(message.probabilities_after),
        bundle_digest=message.bundle_digest,
        notices=_notices(message.notices),
        disclosure_level=disclosure_level_of(message),
    )


def training_example(message: pb.GetExampleResponse) -> TrainingExample:
    """The reply to GetExample."""
    return example_of(message.example)


def example_of(example: pb.Example) -> TrainingExample:
    """A training example."""
    return TrainingExample(**values_of(example))


def model_info(message: pb.GetModelResponse) -> ModelInfo:
    """The reply to GetModel."""
    values = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    repeated = {
        name: tuple(values[name]) for name in ("class_names", "input_shape", "uncovered", "image_size", "frozen")
    }
    return ModelInfo(
        **{
            **values,
            **repeated,
            "audit": MessageToDict(message.audit),
            "disclosure_level": disclosure_level_of(message),
            "input_signature": _signature(message),
        }
    )


def _signature(message: pb.GetModelResponse) -> InputSignature:
    found = message.input_signature
    kind = pb.InputKind.Name(found.kind).removeprefix("INPUT_KIND_")
    return InputSignature(
        shape=tuple(message.input_shape),
        mode=message.image_mode,
        image_size=tuple(message.image_size),
        kind=InputKind[kind] if kind in InputKind.__members__ else None,
        tensors=tuple(_tensor_signature(tensor) for tensor in found.tensors),
        columns=tuple(_column(column) for column in found.columns),
        max_text_length=found.max_text_length,
    )


def _tensor_signature(message: pb.TensorSignature) -> TensorSignature:
    low = message.min_value if message.HasField("min_value") else None
    high = message.max_value if message.HasField("max_value") else None
    return TensorSignature(message.name, message.dtype, tuple(message.shape), low, high)


def _column(message: pb.Column) -> Column:
    kind = pb.ColumnType.Name(message.type).removeprefix("COLUMN_TYPE_")
    found = ColumnType[kind] if kind in ColumnType.__members__ else ColumnType.ANY
    return Column(message.name, found, tuple(message.categories), message.optional)


def suspects(message: pb.ListSuspectsResponse) -> Suspects:
    """The reply to ListSuspects."""
    found = tuple(Suspect(**values_of(suspect)) for suspect in message.suspects)
    return Suspects(found, message.bundle_digest, message.total, message.next_page_token)


def _measure(number: pb.Measure) -> Measure:
    return Measure[pb.Measure.Name(number).removeprefix("MEASURE_")]


def _prediction(message: pb.Prediction) -> Prediction:
    return Prediction(message.class_id, message.label, tuple(message.probabilities))


def _influences(messages: Iterable[pb.Influence]) -> tuple[Influence, ...]:
    return tuple(Influence(**values_of(message)) for message in messages)


def values_of(message: Message) -> dict[str, Any]:
    """A message's fields by name; a number that was left out is nan, a record None."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: Any) -> Any:
    is_there = not field.has_presence or message.HasField(field.name)
    if field.message_type is Struct.DESCRIPTOR:
        return MessageToDict(getattr(message, field.name)) if is_there else None
    return getattr(message, field.name) if is_there else math.nan


def disclosure_level_of(message: Any) -> DisclosureLevel:
    """What a reply was made with; a server that has no levels leaves nothing out."""
    return DisclosureLevel(message.disclosure_level or DisclosureLevel.FULL)


def _outcome(result: pb.MeasureResult, side: str) -> DiversityOutcome | None:
    message = getattr(result, side)
    fields = (field.name for field in message.DESCRIPTOR.fields)
    return DiversityOutcome(**{name: getattr(message, name) for name in fields}) if result.HasField(side) else None


def _notices(messages: Iterable[pb.Notice]) -> tuple[Notice, ...]:
    """Notices of the kinds that this version knows; a newer server may send others."""
    known = {pb.Notice.Code.Value(code.value): code for code in NoticeCode}
    return tuple(Notice(known[m.code], m.message, m.count) for m in messages if m.code in known)
