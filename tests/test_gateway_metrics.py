"""What an operator sees: every call and every refusal is counted, by names and formats that other tools know."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway_fakes import echo
from listening import Listening, run
from proponent.gateway.histogram import LoopHistogram
from proponent.gateway.metrics import Metrics, exemplar
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import Stage, WorkerReply, WorkerRequest

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
IMAGE = {"image": {"b64": "AAAA"}}
RPC = "proponent.v1.ExplanationService"
PREDICTIONS = {"model": "toy", "lane": "predictions"}


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All values by name and labels."""
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def explained(request: WorkerRequest) -> WorkerReply:
    """Two measures with three examples in all, and the stages of a batch of four."""
    reply = echo(request)
    if request.WhichOneof("call") == "explain":
        lists = [pb.MeasureResult(proponents=[pb.Influence()] * n, opponents=[pb.Influence()] * 1) for n in (1, 0)]
        reply.explain.results.extend(lists)
    for name, start, end in (("queue", 0, 2_000_000), ("forward", 2_000_000, 30_000_000)):
        reply.stages.append(Stage(name=name, start_ns=start, end_ns=end))
    reply.batch_size = 4
    return reply


@given(st.lists(st.floats(0, 20), min_size=1), st.sets(st.floats(0.1, 10), min_size=1))
def test_the_loops_own_histogram_says_what_the_librarys_does(values: list[float], bounds: set[float]) -> None:
    library, own = CollectorRegistry(), CollectorRegistry()
    theirs = Histogram("h", "Text.", ["a"], registry=library, buckets=sorted(bounds))
    ours = LoopHistogram("h", "Text.", ["a"], sorted(bounds))
    own.register(ours)
    for number, each in enumerate(values):
        theirs.labels(str(number % 2)).observe(each)
        ours.observe((str(number % 2),), each)
    told = [line for line in generate_latest(library).decode().splitlines() if "_created" not in line]
    assert generate_latest(own).decode().splitlines() == told
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("h", "Text.", registry=own)


@given(st.text(min_size=1, max_size=128, alphabet=st.characters(codec="ascii", categories=["L", "N"])), st.booleans())
def test_an_exemplar_never_exceeds_what_the_format_allows(request_id: str, traced: bool) -> None:
    found = exemplar(request_id, "f" * 32 if traced else "")
    assert sum(len(key) + len(value) for key, value in found.items()) <= 128
    assert found.get("request_id", request_id) == request_id and ("trace_id" in found) == traced
    if len(request_id) <= 70:
        assert found["request_id"] == request_id
    metrics = Metrics()
    metrics.rpc_ended("m", "OK", "", 0.1, found)


def test_a_call_is_exemplified_by_its_request_where_openmetrics_is_asked_for(tmp_path: Path) -> None:
    async def ask(listening: Listening) -> None:
        async with listening.client() as client, grpc.aio.insecure_channel(listening.grpc_address) as channel:
            request = pb.PredictRequest(model="toy", encoded_image=b"x")
            await listening.stub(channel).Predict(request, metadata=(("x-request-id", "by-grpc"),))
            body, headers = {"instances": [IMAGE]}, {"x-request-id": "by-http"}
            assert (await client.post("/v1/models/toy:predict", json=body, headers=headers)).status_code == 200
            plain = await client.get("/metrics")
            assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "by-grpc" not in plain.text and "# {" not in plain.text
            assert list(text_string_to_metric_families(plain.text))
            rich = await client.get("/metrics", headers={"accept": f"{OPENMETRICS},text/plain;q=0.5"})
        assert rich.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        found = {
            (family.name, sample.exemplar.labels["request_id"])
            for family in openmetrics.text_string_to_metric_families(rich.text)
            for sample in family.samples
            if sample.exemplar
        }
        assert ("rpc_server_call_duration_seconds", "by-grpc") in found
        assert ("http_server_request_duration_seconds", "by-http") in found
        assert {("proponent_worker_request_duration_seconds", by) for by in ("by-grpc", "by-http")} & found

    run(tmp_path, ask)


def test_refusals_are_counted_by_reason_whichever_way_they_came(tmp_path: Path) -> None:
    def requests() -> Iterator[pb.StreamExplainRequest]:
        yield pb.StreamExplainRequest(request=pb.ExplainRequest(model="nobody", encoded_image=b"x"))

    async def ask(listening: Listening) -> None:
        metrics = listening.service.metrics
        async with listening.client() as client, grpc.aio.insecure_channel(listening.grpc_address) as channel:
            stub = listening.stub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Predict(pb.PredictRequest(model="nobody", encoded_image=b"x"))
            assert [reply.error.reason async for reply in stub.StreamExplain(requests())] == ["MODEL_UNKNOWN"]
            assert (await client.post("/v1/models/nobody:predict", json={"instances": [IMAGE]})).status_code == 404
            assert (await client.get("/nothing")).status_code == 404
            body = {"instances": [IMAGE, {"image": 7}]}
            assert (await client.post("/v1/models/toy:predict", json=body)).status_code == 200
        assert value(metrics, "proponent_errors_total", transport="grpc", error_type="MODEL_UNKNOWN") == 2
        assert value(metrics, "proponent_errors_total", transport="http", error_type="MODEL_UNKNOWN") == 1
        assert value(metrics, "proponent_errors_total", transport="http", error_type="PATH_UNKNOWN") == 1
        counted = {
            dict(labels)["error_type"] for name, labels in samples(metrics) if name == "proponent_errors_total"
        }
        assert len(counted - {"MODEL_UNKNOWN", "PATH_UNKNOWN"}) == 1  # the second instance
        labels = {"rpc_method": f"{RPC}/Predict", "rpc_response_status_code": "NOT_FOUND"}
        name = "rpc_server_call_duration_seconds_count"
        assert value(metrics, name, **labels, error_type="MODEL_UNKNOWN") == 1
        assert value(metrics, name, **labels | {"rpc_response_status_code": "OK"}, error_type="") is None

    run(tmp_path, ask)


def test_a_workers_stages_and_the_examples_of_its_answer_are_counted(tmp_path: Path) -> None:
    async def ask(listening: Listening) -> None:
        listening.service.worker.handle = explained
        metrics = listening.service.metrics
        async with grpc.aio.insecure_channel(listening.grpc_address) as channel:
            for _ in range(2):
                await listening.stub(channel).Explain(pb.ExplainRequest(model="toy", encoded_image=b"x"))
        assert value(metrics, "proponent_examples_disclosed_total", model="toy") == 6
        stage = "proponent_worker_stage_duration_seconds"
        assert value(metrics, f"{stage}_sum", model="toy", stage="forward") == pytest.approx(0.056)
        assert value(metrics, f"{stage}_count", model="toy", stage="queue") == 2
        assert value(metrics, "proponent_worker_batch_size_sum", model="toy") == 8
        name = "proponent_worker_request_duration_seconds_count"
        assert value(metrics, name, model="toy", call="Explain", error_type="") == 2
        [(asked, _), _] = listening.service.worker.asked
        assert asked.request_id and asked.sent_ns > 0 and asked.traceparent == ""

    run(tmp_path, ask)


def test_limits_and_what_is_in_front_of_them_can_be_seen(tmp_path: Path) -> None:
    async def ask(listening: Listening) -> None:
        metrics, worker = listening.service.metrics, listening.service.worker
        worker.hold = asyncio.Event()
        body: dict[str, Any] = {"instances": [IMAGE] * 3}
        async with listening.client() as client:
            asking = asyncio.create_task(client.post("/v1/models/toy:predict", json=body))
            async with asyncio.timeout(10):
                while value(metrics, "proponent_requests_waiting", **PREDICTIONS) != 1:
                    await asyncio.sleep(0.01)
            assert value(metrics, "proponent_requests_in_flight", method="Predict") == 1
            assert value(metrics, "proponent_requests_limit", **PREDICTIONS) == 2
            assert (value(metrics, "proponent_request_bodies_bytes") or 0) > 0
            assert value(metrics, "proponent_request_bodies_limit_bytes") == 1 << 20
            worker.hold.set()
            assert (await asking).status_code == 200
        assert value(metrics, "proponent_requests_waiting", **PREDICTIONS) == 0
        assert value(metrics, "proponent_requests_in_flight", method="Predict") == 0

    run(tmp_path, ask, max_predictions=2, max_buffered_bytes=1 << 20)


def test_a_model_is_shown_before_anything_has_happened_to_it() -> None:
    """A rate or an increase over a counter that appears with its first event never sees that event."""
    metrics = Metrics()
    metrics.add_model("toy")
    metrics.serve_bundle("toy", "a" * 64, 1.5, lambda: 3)
    metrics.serve_bundle("toy", "b" * 64, 2.5, lambda: 4)
    found = samples(metrics)
    assert {dict(labels)["digest"][0] for name, labels in found if name == "proponent_bundle_info"} == {"b"}
    assert value(metrics, "proponent_bundle_created_timestamp_seconds", model="toy") == 2.5
    assert value(metrics, "proponent_forgotten_examples", model="toy") == 4
    assert value(metrics, "proponent_bundle_switches_total", model="toy", operation="publish", outcome="failed") == 0
    assert value(metrics, "proponent_worker_restarts_total", model="toy") == 0
