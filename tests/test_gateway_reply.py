"""Replies in JSON say what ProtoJSON says, but for 64-bit integers, in pieces that are one valid text."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import StreamingResponse

from proponent.gateway.http.reply import json_pieces, json_response, to_json
from proponent.v1 import explanation_pb2 as pb

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
# Of a subnormal number ProtoJSON writes digits that single precision does not hold.
DOUBLES, FLOATS = st.floats(), st.floats(width=32, allow_subnormal=False)
INFLUENCES = st.lists(
    st.builds(
        pb.Influence,
        example_id=TEXT,
        score=DOUBLES,
        rank=INT32,
        class_id=INT32,
        label=TEXT,
        self_influence=DOUBLES,
        thumbnail=st.binary(max_size=10),
    ),
    max_size=4,
)
PREDICTIONS = st.builds(pb.Prediction, class_id=INT32, label=TEXT, probabilities=st.lists(FLOATS, max_size=4))
REPLIES = st.builds(
    pb.ExplainResponse,
    prediction=st.none() | PREDICTIONS,
    results=st.lists(st.builds(pb.MeasureResult, measure=st.integers(0, 9), proponents=INFLUENCES), max_size=3),
    quality=st.builds(pb.Quality, curvature=TEXT, kept_energy=DOUBLES),
    train_size=INT64,
    notices=st.lists(st.builds(pb.Notice, code=st.integers(0, 7), count=INT64), max_size=2),
    timings=st.lists(st.builds(pb.Timing, stage=TEXT), max_size=2),
)


def protojson(message: pb.ExplainResponse) -> Any:
    values = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    values["train_size"] = int(values["train_size"])
    for notice in values["notices"]:
        notice["count"] = int(notice["count"])
    return values


@settings(deadline=None)
@given(
    REPLIES, st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.none(), max_size=3)
)
def test_a_reply_is_what_protojson_makes_of_it(reply: pb.ExplainResponse, audit: dict[str, Any]) -> None:
    reply.quality.audit.update(audit)
    for timing in reply.timings:
        timing.duration.FromNanoseconds(1_234_567)
    assert to_json(reply) == protojson(reply)
    assert json.loads(b"".join(json_pieces(reply))) == protojson(reply)
    several = {"explanations": [reply, {"error": {"status": 400}}], "digest": "d"}
    expected = {**several, "explanations": [protojson(reply), {"error": {"status": 400}}]}
    assert json.loads(bytes(json_response(several).body)) == expected


def test_pieces_are_small_however_long_the_lists() -> None:
    proponents = [pb.Influence(example_id=f"digits-{n}", rank=n) for n in range(5000)]
    reply = pb.ExplainResponse(results=[pb.MeasureResult(proponents=proponents)] * 2)
    pieces = list(json_pieces({"explanations": [reply, {"error": {}}], "digest": "d"}))
    assert json.loads(b"".join(pieces)) == {"explanations": [to_json(reply), {"error": {}}], "digest": "d"}
    assert max(map(len, pieces)) < 64 << 10
    assert isinstance(json_response({"explanations": [reply]}), StreamingResponse)
