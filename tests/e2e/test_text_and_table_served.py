"""A text model and a table model of one store, served by TorchServe: every way in, bad inputs, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from running import RunningGateway

import tiny_table
import tiny_text
from proponent import Client, ExplainOptions, InvalidInputError, PermissionDeniedError, Text, View
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
]
OAK = {"height": 2.0, "kind": "oak", "old": True}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    root = tmp_path_factory.mktemp("kinds")
    store = Store(root / "store")
    for path in (tiny_text.project(root / "text"), tiny_table.project(root / "table")):
        rebuild(load_spec(path), store, RebuildOptions(quiet=True))
    running = RunningGateway(root / "store", root / "gateway.log", "--allow-samples", "--allow-examples")
    try:
        running.wait_ready()
        yield running
        running.stop()
    finally:
        running.close()


def test_texts_and_records_are_explained(gateway: RunningGateway) -> None:
    record = Struct()
    record.update(OAK)
    text = gateway.rpc.Explain(pb.ExplainRequest(model="words", text="a good film", top_k=3))
    assert all(one.example_id.startswith("text/") for one in text.results[0].proponents)
    row = gateway.rpc.Explain(pb.ExplainRequest(model="trees", record=record, top_k=3))
    assert len(row.results) == 3
    plain = gateway.http.post(
        "/v1/models/words:explain?top_k=3", content="a good film", headers={"content-type": "text/plain"}
    ).json()
    [told] = plain["explanations"]
    assert told["prediction"]["probabilities"] == pytest.approx(list(text.prediction.probabilities), abs=1e-6)
    answer = gateway.http.post(
        "/v1/models/trees:predict", json={"instances": [{"record": OAK}, {"record": {"a": 1}}]}
    )
    good, bad = answer.json()["predictions"]
    assert good["probabilities"] == pytest.approx(list(row.prediction.probabilities), abs=1e-6)
    assert (bad["error"]["reason"], bad["error"]["field"]) == ("RECORD_UNKNOWN_COLUMN", "instances[1].record.a")


def test_the_signature_says_what_to_send(gateway: RunningGateway) -> None:
    words, trees = (
        gateway.rpc.GetModel(pb.GetModelRequest(model=name)).input_signature for name in ("words", "trees")
    )
    assert (words.kind, trees.kind) == (pb.INPUT_KIND_TEXT, pb.INPUT_KIND_RECORD)
    assert [(c.name, c.optional) for c in trees.columns] == [("height", False), ("kind", True), ("old", False)]
    ids = words.tensors[0]
    assert (ids.name, ids.dtype, list(ids.shape)) == ("input_ids", "int64", [-1])


def test_what_is_unusable_is_refused_and_the_next_call_works(gateway: RunningGateway) -> None:
    for request, field in (
        (pb.PredictRequest(model="words", text="film " * 60), "text"),
        (pb.PredictRequest(model="words", encoded_image=b"png"), "encoded_image"),
        (pb.PredictRequest(model="trees", text="oak"), "text"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            gateway.rpc.Predict(request)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT and field in str(
            error.value.trailing_metadata()
        )
    assert gateway.rpc.Predict(pb.PredictRequest(model="words", text="film")).prediction.label


def test_words_are_weighed_by_every_way_in(gateway: RunningGateway) -> None:
    asked = pb.ExplainRequest(model="words", text="a good film", top_k=2, measures=[pb.MEASURE_INFLUENCE])
    [result] = gateway.rpc.Explain(asked).results
    ids = [found.example_id for found in (*result.proponents, *result.opponents)]
    typed = gateway.rpc.HighlightExamples(pb.HighlightExamplesRequest(query=asked, example_ids=ids))
    scores = [found.score for found in (*result.proponents, *result.opponents)]
    assert [found.score for found in typed.highlights] == pytest.approx(scores, rel=5e-3)
    body = {"query": {"text": "a good film"}, "example_ids": ids}
    plain = gateway.http.post("/v1/models/words:highlightExamples", json=body).json()
    for one, other in zip(plain["highlights"], typed.highlights, strict=True):
        assert one["asked"] == [
            {"start": t.start, "end": t.end, "weight": pytest.approx(t.weight)} for t in other.asked
        ]
    with Client(gateway.grpc_address, model="words") as client:
        told = client.highlight_examples(Text("a good film"), ids)
        assert [each.example_id for each in told.highlights] == ids and not told.highlights[0].text
        with pytest.raises(PermissionDeniedError):
            client.highlight_examples(Text("a good film"), ids, ExplainOptions(view=View.THUMBNAIL))
        with pytest.raises(InvalidInputError) as refused:
            client.highlight_examples({"height": 2.0}, ids)
    assert refused.value.field == "query.record"


def test_the_client_and_the_command_line_take_texts(gateway: RunningGateway) -> None:
    with Client(gateway.grpc_address, model="words") as client:
        found = client.explain(Text("a good film"))
    with Client(gateway.grpc_address, model="trees") as client:
        whole = client.get_sample(client.list_samples().samples[0].sample_id)
        assert client.predict(whole.input).class_id == whole.predicted_class_id
    command = [sys.executable, "-m", "proponent.cli", "explain", "--text", "a good film", "--store"]
    done = subprocess.run(
        [*command, str(gateway.store), "--model", "words", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["prediction"]["probabilities"]
    assert told == pytest.approx(list(found.prediction.probabilities), abs=1e-5)
