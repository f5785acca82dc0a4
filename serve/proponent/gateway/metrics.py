"""Prometheus metrics, named as OpenTelemetry names them.

Durations of calls carry exemplars with the request's id (and its trace's, where it is traced), which only the
OpenMetrics format can express; who scrapes chooses the format by its Accept header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

import proponent
from proponent.gateway.histogram import LoopHistogram
from proponent.v1.worker_pb2 import Stage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
# Runes that the names and values of an exemplar may have together.
_LONGEST_EXEMPLAR = 128

Exemplar = Mapping[str, str]
M = TypeVar("M")


def exemplar(request_id: str, trace_id: str = "") -> dict[str, str]:
    """What a duration is exemplified by: the ids of its call, as far as they fit."""
    if not trace_id and len(request_id) <= _LONGEST_EXEMPLAR - len("request_id"):
        return {"request_id": request_id}
    found = {"trace_id": trace_id} if trace_id else {}
    if (
        sum(len(key) + len(value) for key, value in found.items()) + len("request_id" + request_id)
        <= _LONGEST_EXEMPLAR
    ):
        found["request_id"] = request_id
    return found


class _Children(dict[tuple[str, ...], Any]):
    """The children of a metric by the values of its labels: finding one by the library costs more than counting."""

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> Any:
        child = self[values] = self._metric.labels(*values)
        return child


class Metrics:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        described = {"service_name": "proponent", "service_version": proponent.__version__}
        self._registry = CollectorRegistry(target_info=described)
        self._of_models: list[Any] = []
        ProcessCollector(registry=self._registry)
        self._make_call_metrics()
        self._make_limit_metrics()
        self._make_worker_metrics()
        self._make_model_metrics()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def rpc_ended(self, method: str, code: str, error_type: str, seconds: float, found_by: Exemplar) -> None:
        """Counts a gRPC call; ``error_type`` is the reason of an error, or empty."""
        self._rpc_duration.observe((method, code, error_type), seconds, found_by)
        if error_type:
            self.error("grpc", error_type)

    def http_ended(
        self, route: str, method: str, status: int, error_type: str, seconds: float, found_by: Exemplar
    ) -> None:
        """Counts an HTTP request; ``error_type`` is the reason of an error, or empty."""
        self._http_duration.observe((route, method, str(status), error_type), seconds, found_by)
        if error_type:
            self.error("http", error_type)

    def error(self, transport: str, error_type: str) -> None:
        """Counts a call, or a part of one, that was answered by an error."""
        self._errors[transport, error_type].inc()

    def worker_ended(self, model: str, call: str, error_type: str, seconds: float, found_by: Exemplar) -> None:
        """Counts a request to a worker, from when it was sent until its answer or error."""
        self._worker_duration.observe((model, call, error_type), seconds, found_by)

    def worker_answered(self, model: str, stages: Sequence[Stage], batch_size: int) -> None:
        """Counts what a worker says of an answer: the stages of its batch, and how large that was."""
        for stage in stages:
            self._stage_duration.observe((model, stage.name), (stage.end_ns - stage.start_ns) / 1e9)
        if batch_size:
            self._batch_size.observe((model,), batch_size)

    def switched(self, model: str, operation: str, outcome: str) -> None:
        """Counts a publish, rollback or repair, with the outcome ``ok`` or ``failed``."""
        self._switches[model, operation, outcome].inc()

    def examples_disclosed(self, model: str, count: int) -> None:
        """Counts training examples that stood in a reply."""
        self._disclosed[(model,)].inc(count)

    def add_model(self, model: str) -> None:
        """Shows a model from now on: a rate needs its counters before they count."""
        self.ready.labels(model).set(0)
        self.worker_restarts.labels(model)
        self._disclosed[(model,)].inc(0)
        for operation in ("publish", "rollback", "repair"):
            for outcome in ("ok", "failed"):
                self._switches[model, operation, outcome].inc(0)

    def remove_model(self, model: str) -> None:
        """Shows a model no more, once nothing is counted for it."""
        self._digests.pop(model, None)
        for metric in self._of_models:
            metric.remove_by_labels({"model": model})
        for children in vars(self).values():
            if isinstance(children, _Children):
                children.clear()

    def serve_bundle(self, model: str, digest: str, created: float, forgotten: Callable[[], float]) -> None:
        """Shows the bundle that a model is served with.

        Args:
            model: Its name.
            digest: Of the bundle; it takes the place of the one before.
            created: When it was built, in seconds since 1970.
            forgotten: How many of the model's examples are forgotten, asked for at each scrape.
        """
        if model in self._digests:
            self._bundle.remove(model, self._digests[model])
        self._digests[model] = digest
        self._bundle.labels(model, digest).set(1)
        self._created.labels(model).set(created)
        self._forgotten.labels(model).set_function(forgotten)

    def _make_call_metrics(self) -> None:
        rpc = ("rpc_method", "rpc_response_status_code", "error_type")
        http = ("http_route", "http_request_method", "http_response_status_code", "error_type")
        self._rpc_duration = self._histogram("rpc_server_call_duration_seconds", "Time to answer a gRPC call.", *rpc)
        text = "Time to answer an HTTP request."
        self._http_duration = self._histogram("http_server_request_duration_seconds", text, *http)
        text = "Calls, items of streams and instances of HTTP calls that were answered by an error, by its reason."
        self._errors = _Children(
            Counter("proponent_errors", text, ("transport", "error_type"), registry=self._registry)
        )
        text = "Training examples that stood in replies, counted each time."
        self._disclosed = _Children(self._counter("proponent_examples_disclosed", text, "model"))

    def _make_limit_metrics(self) -> None:
        text = "Calls that are being worked on."
        self.in_flight = _Children(self._gauge("proponent_requests_in_flight", text, "method"))
        lane = ("model", "lane")
        self.waiting = self._gauge(
            "proponent_requests_waiting", "Calls, or parts of larger calls, that wait for a lane of workers.", *lane
        )
        self.limit = self._gauge(
            "proponent_requests_limit", "Requests that the workers of a lane are given at a time.", *lane
        )
        self.refused = self._counter(
            "proponent_requests_refused", "Calls for which the line before a lane was too long.", *lane
        )
        self.body_bytes = self._gauge("proponent_request_bodies_bytes", "Memory that request bodies take.")
        self.body_limit = self._gauge("proponent_request_bodies_limit_bytes", "Most memory that they may take.")
        self.connections = self._gauge("proponent_http_connections", "HTTP connections that are open.")
        self.connection_limit = self._gauge("proponent_http_connections_limit", "Most that may be open.")

    def _make_worker_metrics(self) -> None:
        text = "Time from sending a request to a worker until its answer, its queue included."
        labels = ("model", "call", "error_type")
        self._worker_duration = self._histogram("proponent_worker_request_duration_seconds", text, *labels)
        text = "Time of a stage of the batch that a request was answered in, as the worker measured it."
        name = "proponent_worker_stage_duration_seconds"
        self._stage_duration = self._histogram(name, text, "model", "stage", bounds=_STAGE_SECONDS)
        text = "Requests that a request was answered together with, itself included."
        self._batch_size = self._histogram("proponent_worker_batch_size", text, "model", bounds=_BATCHES)
        self.worker_restarts = self._counter("proponent_worker_restarts", "Workers that died.", "model")
        self.torchserve_restarts = self._counter("proponent_torchserve_restarts", "Ends of the model server.")
        self.worker_memory = self._gauge(
            "proponent_worker_resident_memory_bytes", "Resident memory of the workers that are ready.", "model"
        )

    def _make_model_metrics(self) -> None:
        self.gateway_ready = self._gauge("proponent_ready", "1 when /readyz says ready, else 0.")
        self.ready = self._gauge("proponent_model_ready", "1 when a worker answers for the model, else 0.", "model")
        self.lane_ready = self._gauge(
            "proponent_lane_ready", "1 when a worker answers for the lane of the model, else 0.", "model", "lane"
        )
        self._digests: dict[str, str] = {}
        self._bundle = self._gauge("proponent_bundle_info", "1 for the bundle that is served.", "model", "digest")
        self._created = self._gauge(
            "proponent_bundle_created_timestamp_seconds", "When the bundle that is served was built.", "model"
        )
        self._forgotten = self._gauge(
            "proponent_forgotten_examples", "Training examples that no answer may show.", "model"
        )
        self._switches = _Children(
            self._counter(
                "proponent_bundle_switches", "Publishes, rollbacks and repairs.", "model", "operation", "outcome"
            )
        )

    def _histogram(self, name: str, text: str, *labels: str, bounds: Sequence[float] = _SECONDS) -> LoopHistogram:
        histogram = LoopHistogram(name, text, labels, bounds)
        self._registry.register(histogram)
        return self._kept(histogram, labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._kept(Counter(name, text, labels, registry=self._registry), labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._kept(Gauge(name, text, labels, registry=self._registry), labels)

    def _kept(self, metric: M, labels: Sequence[str]) -> M:
        """The same; by it ``remove_model`` finds what is counted for a model."""
        if "model" in labels:
            self._of_models.append(metric)
        return metric
