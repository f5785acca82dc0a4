"""What a caller is not to be told is in no reply, whatever the call and the transport; what it is told is said."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from gateway_fakes import Service
from listening import Listening, run
from proponent.client.replies import explanation, model_info, suspects
from proponent.errors import PermissionDeniedError
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.call import CallContext
from proponent.gateway.privacy.levels import disclosed_examples, rounded, withhold
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

LABELS, RANKS, ROUNDED, FULL = DisclosureLevel
VALUE = 0.123456
REPLIES = [
    message
    for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    if name.endswith("Response") and "disclosure_level" in message.fields_by_name
]
# Numbers of replies that tell nothing of single training examples.
OF_THE_MODEL = {"Prediction", "Quality", "GetModelResponse", "BundleSummary", "DiffSummary"}
HARMLESS = {("SampleDiff", "overlap"), ("Histogram", "edges")}  # the latter is in a field that is left out as a whole
EXPECTED = {
    LABELS: {"rank", "class_id", "label", "predicted_class_id", "count", "overlap", "is_label_issue"},
    RANKS: {"example_id", "source", "thumbnail", "entered_proponents", "left_opponents"},
    ROUNDED: {"score", "influence_kept", "loss_change", "probabilities_after", "label_score"},
    FULL: {"self_influence", "mean_self_influence", "median_self_influence", "edges", "counts", "zeros"},
}


def filled(descriptor: Descriptor) -> Any:
    """A message with something in every field; of a oneof the last."""
    message: Any = getattr(pb, descriptor.name)()
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.file is not pb.DESCRIPTOR:
            continue
        value = filled(field.message_type) if field.message_type is not None else _scalar(field)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def _scalar(field: FieldDescriptor) -> Any:
    kinds: dict[int, Any] = {
        FieldDescriptor.CPPTYPE_STRING: b"text" if field.type == FieldDescriptor.TYPE_BYTES else "text",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: VALUE,
        FieldDescriptor.CPPTYPE_FLOAT: VALUE,
    }
    return kinds.get(field.cpp_type, 1)


def leaves(message: Message) -> Iterator[tuple[str, Any]]:
    """Every value that a message holds, with the name of its field."""
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if isinstance(each, Message):
                yield from leaves(each)
            else:
                yield field.name, each


@pytest.mark.parametrize("level", DisclosureLevel, ids=lambda level: level.name)
@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.name)
def test_a_reply_holds_the_fields_of_its_level(reply: Descriptor, level: DisclosureLevel) -> None:
    whole, told = filled(reply), filled(reply)
    withhold(told, level)
    before, after = {name for name, _ in leaves(whole)}, {name for name, _ in leaves(told)}
    for least, names in EXPECTED.items():
        assert after & names == (names & before if level >= least else set()), least
    if level is FULL:
        assert told == whole
    numbers = {name: value for name, value in leaves(told) if name in EXPECTED[ROUNDED]}
    expected = 0.12 if level is ROUNDED else VALUE
    assert all(math.isclose(value, expected, rel_tol=1e-6) for value in numbers.values()), numbers


def messages_of_replies() -> Iterator[Descriptor]:
    waiting, seen = list(REPLIES), set()
    while waiting:
        message = waiting.pop()
        if message.name in seen or message.file is not pb.DESCRIPTOR:
            continue
        seen.add(message.name)
        yield message
        waiting += [field.message_type for field in message.fields if field.message_type is not None]


def test_no_number_and_no_id_of_a_reply_was_forgotten() -> None:
    """A field that is added to a reply must say at which level it begins."""
    unmarked = set()
    for message in messages_of_replies():
        for field in message.fields:
            marked = field.GetOptions().Extensions[pb.disclosed]
            if field.name in ("example_id", "example_ids") or field.name.startswith(("entered_", "left_")):
                assert marked.level and marked.names_examples, (message.name, field.name)
            number = field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
            if number and not marked.level and message.name not in OF_THE_MODEL:
                unmarked.add((message.name, field.name))
    assert unmarked == HARMLESS


def test_the_levels_of_the_proto_and_of_python_are_the_same() -> None:
    assert {f"DISCLOSURE_LEVEL_{level.name}": int(level) for level in DisclosureLevel} == {
        name: number for name, number in pb.DisclosureLevel.items() if number
    }


@pytest.mark.parametrize("measure", [pb.MEASURE_THETA_RELATIF, pb.MEASURE_L_RELATIF])
def test_rounded_scores_do_not_give_the_norms_away(measure: int) -> None:
    """The quotient of an example's scores under two measures is a norm of its gradient."""
    score = pb.Influence(example_id="a", score=VALUE)
    listed = pb.ExplainResponse(results=[pb.MeasureResult(measure=measure, proponents=[score], opponents=[score])])
    named = pb.ScoreExamplesResponse(results=[pb.MeasureScores(measure=measure, scores=[score])])
    for reply in (listed, named):
        withhold(reply, ROUNDED)
        assert set(leaves(reply)) == {("measure", measure), ("example_id", "a")}


@given(st.floats(min_value=-1e300, max_value=1e300, allow_subnormal=False))
def test_a_rounded_number_keeps_two_digits(value: float) -> None:
    digits = Decimal(repr(rounded(value))).normalize().as_tuple().digits
    assert len(digits) <= 2 and math.isclose(rounded(value), value, rel_tol=0.0501)


def test_examples_are_counted_wherever_they_are_named() -> None:
    reply = filled(pb.DESCRIPTOR.message_types_by_name["DiffBundlesResponse"])
    assert list(disclosed_examples(reply)) == ["text"] * 4
    withhold(reply, LABELS)
    assert list(disclosed_examples(reply)) == []


def worker_that_tells_all(request: WorkerRequest) -> WorkerReply:
    kind = str(request.WhichOneof("call"))
    reply = WorkerReply()
    getattr(reply, kind).CopyFrom(filled(getattr(reply, kind).DESCRIPTOR))
    return reply


def service_at(level: DisclosureLevel, directory: Path) -> Service:
    service = Service(directory, allow_examples=True, allow_thumbnails=True, disclosure=level.name.lower())
    service.worker.handle = worker_that_tells_all
    return service


QUERY = pb.ExplainRequest(model="toy", encoded_image=b"png")
CALLS: dict[str, tuple[Message, DisclosureLevel]] = {
    "Explain": (QUERY, LABELS),
    "FindFlipSet": (pb.FindFlipSetRequest(query=QUERY), LABELS),
    "SummarizeExamples": (pb.SummarizeExamplesRequest(model="toy"), LABELS),
    "GetModel": (pb.GetModelRequest(model="toy"), LABELS),
    "GetExample": (pb.GetExampleRequest(model="toy", example_id="toy/4"), RANKS),
    "ListExamples": (pb.ListExamplesRequest(model="toy", page_size=2), RANKS),
    "ListSuspects": (pb.ListSuspectsRequest(model="toy"), RANKS),
    "ScoreExamples": (pb.ScoreExamplesRequest(query=QUERY, example_ids=["toy/1"]), ROUNDED),
    "EstimateRemoval": (pb.EstimateRemovalRequest(query=QUERY, example_ids=["toy/1"]), ROUNDED),
}


@pytest.mark.parametrize("level", DisclosureLevel, ids=lambda level: level.name)
@pytest.mark.parametrize("name", CALLS)
def test_every_call_passes_the_gate(name: str, level: DisclosureLevel, tmp_path: Path) -> None:
    request, least = CALLS[name]
    service = service_at(level, tmp_path)
    call = CallContext(caller=replace(ANYBODY, level=service.settings.disclosure_level))
    try:
        if level < least:
            with pytest.raises(PermissionDeniedError, match=f"{name} needs.*{least.name.lower()}") as caught:
                asyncio.run(service.calls.methods[name].run(request, call))
            assert caught.value.reason == "DISCLOSURE_LEVEL" and not service.worker.asked
            return
        reply = asyncio.run(service.calls.methods[name].run(request, call))
    finally:
        service.close()
    names = {found for found, _ in leaves(reply)}
    assert reply.disclosure_level == level
    assert ("self_influence" in names or "mean_self_influence" in names) == (level is FULL and name in TELL_NORMS)
    assert ("example_id" in names) == (level >= RANKS and name in NAME_EXAMPLES)


TELL_NORMS = set(CALLS) - {"GetModel", "EstimateRemoval"}
NAME_EXAMPLES = TELL_NORMS - {"SummarizeExamples"}


@pytest.mark.parametrize("field", ["min_self_influence", "max_self_influence"])
def test_self_influence_is_not_found_by_searching(field: str, tmp_path: Path) -> None:
    request = pb.ListExamplesRequest(model="toy", **{field: 3.0})
    for level in (ROUNDED, FULL):
        (tmp_path / level.name).mkdir()
        service = service_at(level, tmp_path / level.name)
        run_it = service.calls.methods["ListExamples"].run
        call = CallContext(caller=replace(ANYBODY, level=level))
        if level is FULL:
            assert asyncio.run(run_it(request, call)).total
        else:
            with pytest.raises(PermissionDeniedError) as caught:
                asyncio.run(run_it(request, call))
            assert (caught.value.field, caught.value.reason) == (field, "DISCLOSURE_LEVEL")
        service.close()


@pytest.mark.parametrize("level", [LABELS, RANKS])
def test_an_id_is_not_found_by_leaving_it_out(level: DisclosureLevel, tmp_path: Path) -> None:
    service = service_at(level, tmp_path)
    request = pb.ExplainRequest(
        model="toy", encoded_image=b"png", filter=pb.Filter(exclude_example_ids=["toy/1"], deny_class_ids=[2])
    )
    call = CallContext(caller=replace(ANYBODY, level=level))
    if level is RANKS:
        assert asyncio.run(service.calls.methods["Explain"].run(request, call)).disclosure_level == level
    else:
        with pytest.raises(PermissionDeniedError) as caught:
            asyncio.run(service.calls.methods["Explain"].run(request, call))
        assert (caught.value.field, caught.value.reason) == ("filter.exclude_example_ids", "DISCLOSURE_LEVEL")
        assert not service.worker.asked
    service.close()


@pytest.mark.parametrize("level", [RANKS, ROUNDED])
def test_both_transports_and_the_stream_leave_out_the_same(level: DisclosureLevel, tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        transports.service.worker.handle = worker_that_tells_all
        async with transports.client() as client:
            answer = await client.post(
                "/v1/models/toy:explain", content=b"png", headers={"content-type": "image/png"}
            )
            page = await client.get("/v1/models/toy/suspects")
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            stub = transports.stub(channel)
            single = await stub.Explain(QUERY)
            items = [each async for each in stub.StreamExplain(iter([pb.StreamExplainRequest(request=QUERY)]))]
            listed = suspects(await stub.ListSuspects(pb.ListSuspectsRequest(model="toy")))
            described = model_info(await stub.GetModel(pb.GetModelRequest(model="toy")))
        by_http = answer.json()["explanations"][0]
        influence = by_http["results"][0]["proponents"][0]
        assert ("score" in influence, "self_influence" in influence) == (level is ROUNDED, False)
        assert influence["example_id"] == "text"
        assert by_http["disclosure_level"] == f"DISCLOSURE_LEVEL_{level.name}" == page.json()["disclosure_level"]
        assert items[0].response == single
        read = explanation(single)
        found = read.results[0].proponents[0]
        assert read.disclosure_level is described.disclosure_level is level
        assert math.isnan(found.self_influence) and math.isnan(found.score) == (level is RANKS)
        assert all(math.isnan(each.self_influence) for each in listed.suspects)

    run(tmp_path, ask, disclosure=level.name.lower())
