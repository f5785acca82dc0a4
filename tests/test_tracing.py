"""Traces reach a collector over OTLP: a call in its caller's trace, its request to a worker, its stages."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

import proponent
from collector import Collector, attributes, children
from gateway_fakes import echo
from listening import Listening, opened
from proponent.errors import UnavailableError
from proponent.gateway.otlp import OtlpTracing
from proponent.gateway.tracing import Tracing
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import Stage, WorkerReply, WorkerRequest

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
NAME = "proponent.v1.ExplanationService/Explain"
SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2


def traced(directory: Path, ask: Callable[[Listening], Awaitable[None]], tracing: Tracing) -> None:
    async def inside() -> None:
        async with opened(directory, tracing=tracing) as listening:
            await ask(listening)

    asyncio.run(inside())
    tracing.close()


async def explain(listening: Listening, **metadata: str) -> None:
    given = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    async with grpc.aio.insecure_channel(listening.grpc_address) as channel:
        await listening.stub(channel).Explain(pb.ExplainRequest(model="toy", encoded_image=b"x"), metadata=given)


def staged(request: WorkerRequest) -> WorkerReply:
    reply, now = echo(request), time.monotonic_ns()
    times = {
        "queue": (request.sent_ns, now - 30_000),
        "forward": (now - 30_000, now - 10_000),
        "search": (now - 10_000, now),
    }
    reply.stages.extend(Stage(name=name, start_ns=start, end_ns=end) for name, (start, end) in times.items())
    return reply


def test_a_call_is_traced_from_its_caller_to_the_workers_stages(tmp_path: Path) -> None:
    async def ask(listening: Listening) -> None:
        listening.service.worker.handle = staged
        await explain(listening, traceparent=f"00-{TRACE}-{CALLER}-01", x_request_id="mine")
        [(request, _)] = listening.service.worker.asked
        sent.append(request)

    sent: list[WorkerRequest] = []
    before = time.time_ns()
    with Collector() as collector:
        traced(tmp_path, ask, OtlpTracing(collector.url, 0.0))
        collector.wait_for(lambda spans: len(spans) == 5)
    [call] = [span for span in collector.spans if span.kind == SERVER]
    assert (call.name, call.trace_id.hex(), call.parent_span_id.hex()) == (NAME, TRACE, CALLER)
    told = attributes(call)
    assert told["rpc.response.status_code"] == "OK" and told["proponent.request_id"] == "mine"
    [worker] = children(collector.spans, call)
    assert worker.kind == CLIENT and attributes(worker)["proponent.model"] == "toy"
    assert sent[0].traceparent == f"00-{TRACE}-{worker.span_id.hex()}-01" and sent[0].request_id == "mine"
    stages = children(collector.spans, worker)
    assert [(span.name, span.kind) for span in stages] == [(n, INTERNAL) for n in ("queue", "forward", "search")]
    times = [before, call.start_time_unix_nano, worker.start_time_unix_nano]
    for span in stages:
        times += [span.start_time_unix_nano, span.end_time_unix_nano]
    times += [worker.end_time_unix_nano, call.end_time_unix_nano, time.time_ns()]
    assert all(late - early > -2_000_000 for early, late in itertools.pairwise(times)), times
    [resource] = collector.resources[:1]
    assert (resource["service.name"], resource["service.version"]) == ("proponent", proponent.__version__)


def test_an_http_call_is_traced_by_its_route_and_probes_are_not(tmp_path: Path) -> None:
    async def ask(listening: Listening) -> None:
        async with listening.client() as client:
            for path in ("/healthz", "/readyz", "/metrics"):
                await client.get(path)
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            body = {"instances": [{"image": {"b64": "AAAA"}}]}
            assert (await client.post("/v1/models/toy:predict", json=body, headers=headers)).status_code == 200

    with Collector() as collector:
        traced(tmp_path, ask, OtlpTracing(collector.url, 1.0))
        collector.wait_for(lambda spans: len(spans) == 2)
    [call] = [span for span in collector.spans if span.kind == SERVER]
    assert (call.name, call.trace_id.hex()) == ("POST /v1/models/{model}:predict", TRACE)
    assert attributes(call)["http.response.status_code"] == 200
    [worker] = children(collector.spans, call)
    assert worker.name == "worker Predict"


@pytest.mark.parametrize(
    ("share", "parent", "spans"), [(1.0, "", 2), (0.0, "", 0), (1.0, f"00-{TRACE}-{CALLER}-00", 0)]
)
def test_the_caller_decides_and_else_the_share(tmp_path: Path, share: float, parent: str, spans: int) -> None:
    async def ask(listening: Listening) -> None:
        await explain(listening, **{"traceparent": parent} if parent else {})

    with Collector() as collector:
        traced(tmp_path, ask, OtlpTracing(collector.url, share))
        collector.wait_for(lambda found: len(found) == spans)


def test_errors_are_named_and_only_failures_of_this_side_mark_a_span(tmp_path: Path) -> None:
    def dead(_: WorkerRequest) -> WorkerReply:
        raise UnavailableError("the worker died", reason="WORKER_DIED")

    async def ask(listening: Listening) -> None:
        listening.service.worker.handle = dead
        with pytest.raises(grpc.aio.AioRpcError):
            await explain(listening)
        async with grpc.aio.insecure_channel(listening.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await listening.stub(channel).Explain(pb.ExplainRequest(model="nobody", encoded_image=b"x"))

    with Collector() as collector:
        traced(tmp_path, ask, OtlpTracing(collector.url, 1.0))
        collector.wait_for(lambda spans: len(spans) == 3)
    found = {(s.kind, attributes(s).get("error.type", ""), s.status.code == ERROR) for s in collector.spans}
    assert found == {
        (SERVER, "WORKER_DIED", True),
        (CLIENT, "WORKER_DIED", True),
        (SERVER, "MODEL_UNKNOWN", False),
    }


def test_a_collector_that_is_away_costs_spans_and_no_call(tmp_path: Path) -> None:
    async def ask(listening: Listening) -> None:
        for _ in range(3):
            await explain(listening)

    with Collector() as gone:
        address = gone.url
    began = time.monotonic()
    traced(tmp_path, ask, OtlpTracing(address, 1.0))
    assert time.monotonic() - began < 30


def test_without_the_setting_opentelemetrys_sdk_is_not_even_loaded() -> None:
    code = (
        "import sys, proponent.gateway.server; print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import proponent.gateway.otlp"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "install 'proponent[otel]'" in done.stderr and "SpecError" in done.stderr
