"""Between messages and plain values nothing is lost, made up or let through unchecked."""

from __future__ import annotations

import inspect
import uuid
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent import errors
from proponent.errors import InvalidInputError, ProponentError
from proponent.options import Diversity, ExplainIf, ExplainOptions, Filter, Measure, Ranking, Redundancy, Target, View
from proponent.request_options import MEASURES, options_from
from proponent.results import Explanation, Influence, MeasureResult, Notice, NoticeCode, Prediction, Quality
from proponent.v1 import explanation_pb2 as pb
from proponent.worker.messages import error_message, explain_response, predict_response

CLASS = st.integers(0, 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
REDUNDANCIES = {
    Redundancy.SUM: pb.REDUNDANCY_SUM,
    Redundancy.FACILITY_LOCATION: pb.REDUNDANCY_FACILITY_LOCATION,
    Redundancy.MMD: pb.REDUNDANCY_MMD,
}
NUMBERS = {
    Measure.INFLUENCE: pb.MEASURE_INFLUENCE,
    Measure.THETA_RELATIF: pb.MEASURE_THETA_RELATIF,
    Measure.L_RELATIF: pb.MEASURE_L_RELATIF,
}
RANKINGS = {Ranking.BY_END: pb.RANKING_UNSPECIFIED, Ranking.BY_MAGNITUDE: pb.RANKING_BY_MAGNITUDE}
SHARE = st.none() | st.floats(0, 1)
OPTIONS = st.builds(
    ExplainOptions,
    measures=st.lists(st.sampled_from(Measure), min_size=1, max_size=4).map(tuple),
    top_k=st.integers(1, 2**63 - 1),
    target=st.builds(Target) | st.builds(Target, CLASS) | st.builds(Target, CLASS, CLASS),
    filter=st.builds(Filter, st.frozensets(CLASS), st.frozensets(CLASS), st.lists(TEXT).map(tuple)),
    diversity=st.none()
    | st.builds(
        Diversity,
        redundancy=st.sampled_from(Redundancy),
        gamma=st.just(1.0) | st.floats(0, 1e300),
        candidates=st.integers(1, 2**32 - 1),
        bandwidth=st.none() | st.floats(1e-300, 1e300),
        whole_dataset=st.booleans(),
        unscaled=st.booleans(),
    )
    | st.builds(Diversity, max_influence_loss=st.floats(0, 1)),
    view=st.sampled_from(View),
    explain_if=st.none() | st.builds(ExplainIf, SHARE, SHARE),
    ranking=st.sampled_from(Ranking),
)


def request_of(options: ExplainOptions) -> pb.ExplainRequest:
    """The request that a client would write, field by field."""
    request = pb.ExplainRequest(
        measures=[NUMBERS[measure] for measure in options.measures],
        top_k=options.top_k,
        filter=pb.Filter(
            allow_class_ids=options.filter.allow,
            deny_class_ids=options.filter.deny,
            exclude_example_ids=options.filter.exclude,
        ),
        view=int(options.view),  # type: ignore[arg-type]
        ranking=RANKINGS[options.ranking],
    )
    target, diversity = options.target, options.diversity
    if target.against is not None:
        request.target.contrast.for_class_id = target.class_id or 0
        request.target.contrast.against_class_id = target.against
    elif target.class_id is not None:
        request.target.class_id = target.class_id
    if diversity is not None:
        request.diversity.redundancy = REDUNDANCIES[diversity.redundancy]
        if diversity.max_influence_loss is not None:
            request.diversity.max_influence_loss = diversity.max_influence_loss
        elif diversity.gamma != 1:  # what is left out is 1
            request.diversity.gamma = diversity.gamma
        request.diversity.unscaled = diversity.unscaled
        request.diversity.candidates = diversity.candidates
        request.diversity.bandwidth = diversity.bandwidth or 0
        request.diversity.whole_dataset = diversity.whole_dataset
    if options.explain_if is not None:
        request.explain_if.CopyFrom(pb.ExplainIf(**vars(options.explain_if)))
    return request


@settings(deadline=None)
@given(OPTIONS)
def test_options_arrive_as_they_were_sent(options: ExplainOptions) -> None:
    sent = pb.ExplainRequest.FromString(request_of(options).SerializeToString())
    assert options_from(sent) == options


def test_what_is_left_out_has_its_default() -> None:
    assert options_from(pb.ExplainRequest()) == ExplainOptions(
        measures=tuple(Measure), top_k=10, target=Target(), filter=Filter(), diversity=None, view=View.ID_ONLY
    )
    assert not options_from(pb.ExplainRequest()).filter.active
    assert options_from(pb.ExplainRequest(diversity=pb.Diversity())).diversity == Diversity(
        Redundancy.SUM, 1.0, None, 1000, None, False, False
    )
    assert options_from(pb.ExplainRequest(measures=[pb.MEASURE_UNSPECIFIED])).measures == tuple(Measure)


def test_class_zero_is_not_taken_for_no_class() -> None:
    assert options_from(pb.ExplainRequest(target=pb.Target(class_id=0))).target == Target(0)
    contrast = pb.Target(contrast=pb.Contrast(for_class_id=0, against_class_id=0))
    assert options_from(pb.ExplainRequest(target=contrast)).target == Target(0, 0)


@pytest.mark.parametrize(
    ("keys", "field", "reason"),
    [
        ({"top_k": 0}, "top_k", "TOP_K_OUT_OF_RANGE"),
        ({"top_k": -3}, "top_k", "TOP_K_OUT_OF_RANGE"),
        ({"measures": [1, 99]}, "measures", "MEASURE_UNKNOWN"),
        ({"view": 42}, "view", "INVALID_INPUT"),
        ({"diversity": {"redundancy": 42}}, "diversity.redundancy", "INVALID_INPUT"),
        ({"diversity": {"gamma": -1.0}}, "diversity.gamma", "INVALID_INPUT"),
        ({"diversity": {"gamma": float("nan")}}, "diversity.gamma", "INVALID_INPUT"),
        ({"diversity": {"max_influence_loss": 1.5}}, "diversity.max_influence_loss", "INVALID_INPUT"),
        ({"diversity": {"bandwidth": float("inf")}}, "diversity.bandwidth", "INVALID_INPUT"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(keys: dict[str, Any], field: str, reason: str) -> None:
    if "diversity" in keys:
        keys = {"diversity": pb.Diversity(**keys["diversity"])}
    with pytest.raises(InvalidInputError) as caught:
        options_from(pb.ExplainRequest(**keys))
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_every_measure_of_the_proto_has_its_namesake() -> None:
    assert {number for number in pb.Measure.values() if number} == set(MEASURES)
    for number, measure in MEASURES.items():
        assert pb.Measure.Name(number) == f"MEASURE_{measure.name}"  # type: ignore[arg-type]


def test_every_notice_of_the_proto_has_its_namesake() -> None:
    assert {code.value for code in NoticeCode} == set(pb.Notice.Code.keys()) - {"CODE_UNSPECIFIED"}


INFLUENCE = st.builds(
    Influence,
    example_id=TEXT,
    score=NUMBER,
    rank=st.integers(1, 100),
    class_id=CLASS,
    label=TEXT,
    predicted_class_id=CLASS,
    self_influence=NUMBER,
    source=TEXT,
    thumbnail=st.binary(max_size=9),
)
EXPLANATION = st.builds(
    Explanation,
    prediction=st.builds(Prediction, CLASS, TEXT, st.lists(st.floats(0, 1, width=32), max_size=4)),
    results=st.lists(
        st.builds(
            MeasureResult, st.sampled_from(Measure), st.lists(INFLUENCE, max_size=2), st.lists(INFLUENCE, max_size=2)
        ),
        max_size=3,
    ),
    target_class_id=CLASS,
    against_class_id=st.none() | CLASS,
    bundle_digest=TEXT,
    quality=st.builds(
        Quality, TEXT, st.floats(0, 1), st.dictionaries(TEXT, NUMBER | TEXT | st.booleans(), max_size=3)
    ),
    train_size=st.integers(0, 2**62),
    notices=st.lists(st.builds(Notice, st.sampled_from(NoticeCode), TEXT, st.integers(0, 2**62)), max_size=3),
    timings=st.dictionaries(TEXT, st.floats(0, 1e6), max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(EXPLANATION, TEXT)
def test_an_explanation_arrives_whole(explanation: Explanation, request_id: str) -> None:
    sent = explain_response(explanation, request_id).SerializeToString()
    found = pb.ExplainResponse.FromString(sent)
    assert list(found.prediction.probabilities) == list(explanation.prediction.probabilities)
    assert (found.prediction.class_id, found.prediction.label) == (
        explanation.prediction.class_id,
        explanation.prediction.label,
    )
    for result, expected in zip(found.results, explanation.results, strict=True):
        assert result.measure == NUMBERS[expected.measure]
        for end, wanted in ((result.proponents, expected.proponents), (result.opponents, expected.opponents)):
            assert [read(influence) for influence in end] == list(wanted)
    against = found.against_class_id if found.HasField("against_class_id") else None
    assert against == explanation.against_class_id
    assert (found.target_class_id, found.bundle_digest, found.train_size, found.request_id) == (
        explanation.target_class_id,
        explanation.bundle_digest,
        explanation.train_size,
        request_id,
    )
    assert (found.quality.curvature, found.quality.kept_energy) == (
        explanation.quality.curvature,
        explanation.quality.kept_energy,
    )
    assert MessageToDict(found.quality.audit) == dict(explanation.quality.audit)
    assert [(pb.Notice.Code.Name(n.code), n.message, n.count) for n in found.notices] == [
        (n.code.value, n.message, n.count) for n in explanation.notices
    ]
    assert {t.stage: t.duration.ToNanoseconds() / 1e9 for t in found.timings} == pytest.approx(
        dict(explanation.timings), abs=1e-9
    )


def read(message: pb.Influence) -> Influence:
    values = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    return Influence(**{**values, "record": MessageToDict(message.record) if message.HasField("record") else None})


def test_every_explanation_has_an_id_of_its_own() -> None:
    explanation = Explanation(Prediction(0, "a", [1.0]), [], 0, "", Quality("exact", 1.0), 1)
    ids = {explain_response(explanation, "").explanation_id for _ in range(20)}
    assert len(ids) == 20 and all(str(uuid.UUID(name)) == name for name in ids)


def test_a_prediction_arrives_whole() -> None:
    found = predict_response(Prediction(1, "dog", [0.25, 0.75]), "abc", "mine")
    assert (found.prediction.class_id, found.prediction.label) == (1, "dog")
    assert list(found.prediction.probabilities) == [0.25, 0.75]
    assert (found.bundle_digest, found.request_id) == ("abc", "mine")


EXPECTED_CODES = {
    "InvalidInputError": code_pb2.INVALID_ARGUMENT,
    "SpecError": code_pb2.INVALID_ARGUMENT,
    "NotFoundError": code_pb2.NOT_FOUND,
    "PermissionDeniedError": code_pb2.PERMISSION_DENIED,
    "MismatchError": code_pb2.FAILED_PRECONDITION,
    "HighlightsUnavailableError": code_pb2.FAILED_PRECONDITION,
    "SamplesMissingError": code_pb2.FAILED_PRECONDITION,
    "QuotaError": code_pb2.RESOURCE_EXHAUSTED,
    "OverloadedError": code_pb2.RESOURCE_EXHAUSTED,
    "UnavailableError": code_pb2.UNAVAILABLE,
    "CorruptBundleError": code_pb2.UNAVAILABLE,
    "DeadlineError": code_pb2.DEADLINE_EXCEEDED,
    "BodyTooLargeError": code_pb2.RESOURCE_EXHAUSTED,
    "BodyTimeoutError": code_pb2.DEADLINE_EXCEEDED,
    "UnsupportedMediaTypeError": code_pb2.INVALID_ARGUMENT,
    "MethodNotAllowedError": code_pb2.UNIMPLEMENTED,
    "UnauthenticatedError": code_pb2.UNAUTHENTICATED,
}


@pytest.mark.parametrize(
    "kind", [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ProponentError)]
)
def test_errors_keep_reason_message_and_field_and_have_a_code(kind: type[ProponentError]) -> None:
    found = error_message(kind("what happened", field="where"))
    assert (found.message, found.field, found.reason) == ("what happened", "where", kind.default_reason)
    assert found.code == EXPECTED_CODES.get(kind.__name__, code_pb2.INTERNAL)
    assert error_message(kind("", reason="SPECIAL")).reason == "SPECIAL"
