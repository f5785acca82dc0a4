"""What the real gateway tells an operator: the metrics that dashboard and alerts ask for, traces, named lines."""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from inputs import GOOD, MODEL
from prometheus_client.openmetrics import parser as openmetrics
from running import RunningGateway

from collector import Collector, attributes, children
from promql import TARGET_LABELS, expressions, selected
from proponent.gateway.rollout.control_client import SOCKET
from proponent.v1 import explanation_pb2 as pb

pytestmark = pytest.mark.e2e
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
IMAGE = {"image": {"b64": base64.b64encode(GOOD).decode()}}
# What Prometheus itself adds.
SYNTHETIC = {"up"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as opened:
        yield opened


@pytest.fixture(scope="module")
def gateway(digits: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """After one of each call by both transports, errors among them, and a publish."""
    folder = tmp_path_factory.mktemp("observed")
    store = folder / "store"  # of its own: another gateway of the same store would take its commands
    shutil.copytree(digits / "store", store, ignore=shutil.ignore_patterns(SOCKET))
    options = ("--allow-examples", "--otlp-endpoint", collector.url, "--trace-share", "0")
    gateway = RunningGateway(store, folder / "gateway.log", *options)
    try:
        gateway.wait_ready()
        one_of_each_call(gateway)
        publish_again(gateway)
        yield gateway
    finally:
        gateway.close()


def one_of_each_call(gateway: RunningGateway) -> None:
    def named(name: str) -> dict[str, Any]:
        return {"metadata": (("x-request-id", name), ("traceparent", PARENT)), "timeout": 60}

    rpc, query = gateway.rpc, pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=2)
    explained = rpc.Explain(query, **named("explain"))
    ids = [explained.results[0].proponents[0].example_id]
    rpc.Predict(pb.PredictRequest(model=MODEL, encoded_image=GOOD), **named("predict"))
    rpc.ScoreExamples(pb.ScoreExamplesRequest(query=query, example_ids=ids), **named("score"))
    rpc.EstimateRemoval(pb.EstimateRemovalRequest(query=query, example_ids=ids), **named("removal"))
    rpc.FindFlipSet(pb.FindFlipSetRequest(query=query, max_size=5), **named("flip"))
    rpc.GetExample(pb.GetExampleRequest(model=MODEL, example_id=ids[0]), **named("example"))
    rpc.ListSuspects(pb.ListSuspectsRequest(model=MODEL), **named("suspects"))
    list(rpc.StreamExplain(iter([pb.StreamExplainRequest(request=query)]), **named("stream")))
    with pytest.raises(grpc.RpcError):
        rpc.Predict(pb.PredictRequest(model="nobody", encoded_image=GOOD), **named("refused"))
    for verb in ("predict", "explain"):
        headers = {"x-request-id": f"http-{verb}", "traceparent": PARENT}
        reply = gateway.http.post(f"/v1/models/{MODEL}:{verb}", json={"instances": [IMAGE]}, headers=headers)
        assert reply.status_code == 200
    assert gateway.http.get("/v1/models/nobody", headers={"x-request-id": "http-refused"}).status_code == 404


def publish_again(gateway: RunningGateway) -> None:
    digest = gateway.rpc.GetModel(pb.GetModelRequest(model=MODEL)).bundle_digest
    command = [sys.executable, "-m", "proponent.cli", "publish", digest, "--store", str(gateway.store)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def series(gateway: RunningGateway) -> list[tuple[str, dict[str, str]]]:
    reply = gateway.http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    families = openmetrics.text_string_to_metric_families(reply.text)
    return [(sample.name, dict(sample.labels)) for family in families for sample in family.samples]


def test_dashboard_and_alerts_ask_for_what_is_there(gateway: RunningGateway) -> None:
    live = series(gateway)
    labels: dict[str, set[str]] = {}
    for name, found in live:
        labels.setdefault(name, set()).update(found)
    for where, expression in expressions().items():
        for asked in selected(expression):
            if asked.metric in SYNTHETIC:
                continue
            assert asked.metric in labels, f"{where}: no metric {asked.metric}"
            assert asked.labels - TARGET_LABELS <= labels[asked.metric], f"{where}: {asked}"


def test_series_that_are_selected_by_value_exist(gateway: RunningGateway) -> None:
    """Those of errors aside, which a healthy service does not have."""
    live, of_errors = series(gateway), {"error_type", "rpc_response_status_code", "http_response_status_code"}
    for where, expression in expressions().items():
        for asked in selected(expression):
            if asked.metric in SYNTHETIC or any(label in of_errors for label, _, _ in asked.matchers):
                continue
            assert any(name == asked.metric and asked.matches(found) for name, found in live), f"{where}: {asked}"


def test_every_call_is_counted_and_exemplified(gateway: RunningGateway) -> None:
    live = series(gateway)
    methods = {
        f["rpc_method"].rpartition("/")[2] for name, f in live if name == "rpc_server_call_duration_seconds_count"
    }
    assert methods >= {"Explain", "Predict", "ScoreExamples", "EstimateRemoval", "FindFlipSet", "StreamExplain"}
    stages = {f["stage"] for name, f in live if name == "proponent_worker_stage_duration_seconds_count"}
    assert stages == {"queue", "decode", "forward", "backward", "embed", "search", "lookup", "removal"}
    text = gateway.http.get("/metrics", headers={"accept": "application/openmetrics-text"}).text
    assert re.search(r'# \{request_id="[\w-]+",trace_id="[0-9a-f]{32}"\}', text)
    values = {(name, *found.values()): value for name, found, value in samples(text)}
    assert values["proponent_worker_resident_memory_bytes", MODEL] > 50e6
    assert values["proponent_bundle_switches_total", MODEL, "publish", "ok"] == 1
    assert values["proponent_examples_disclosed_total", MODEL] >= 12 and values["proponent_ready",] == 1


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in openmetrics.text_string_to_metric_families(text):
        yield from ((sample.name, sample.labels, sample.value) for sample in family.samples)


def test_a_call_is_traced_through_the_real_worker(gateway: RunningGateway, collector: Collector) -> None:
    names = ("Explain", "Predict", "ScoreExamples", "EstimateRemoval", "FindFlipSet", "StreamExplain")
    wanted = {f"proponent.v1.ExplanationService/{name}" for name in names}
    wanted |= {f"POST /v1/models/{{model}}:{verb}" for verb in ("predict", "explain")}
    collector.wait_for(lambda spans: wanted <= {span.name for span in spans}, 30)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    for name in wanted:
        call = next(
            span for span in collector.spans if span.name == name and attributes(span).get("error.type") is None
        )
        [worker] = children(collector.spans, call)
        stages = [span.name for span in children(collector.spans, worker)]
        assert stages[:3] == ["queue", "decode", "forward"], (name, stages)
        if name.endswith(("Explain", ":explain")):
            assert stages[3:] == ["backward", "embed", "search", "lookup"], (name, stages)
        assert worker.start_time_unix_nano <= call.end_time_unix_nano


def test_every_line_of_a_call_names_it(gateway: RunningGateway) -> None:
    lines = [
        dict(part.split("=", 1) for part in shlex.split(line) if "=" in part)
        for line in gateway.log.read_text().splitlines()
    ]
    calls = [line for line in lines if line.get("event") in ("rpc", "http", "error", "defect")]
    by_id = {line["request_id"]: line for line in calls}
    expected = {"explain", "predict", "score", "removal", "flip", "example", "suspects", "stream", "refused"}
    assert expected | {"http-predict", "http-explain", "http-refused"} <= by_id.keys()
    assert by_id["refused"]["reason"] == by_id["http-refused"]["reason"] == "MODEL_UNKNOWN"
    assert by_id["explain"]["trace_id"] == by_id["http-explain"]["trace_id"] == TRACE
