"""Prometheus metrics, named as OpenTelemetry names them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.rpc_duration = self._histogram(
            "rpc_server_call_duration_seconds", "Time to answer a gRPC call.", "method", "code"
        )
        self.http_duration = self._histogram(
            "http_server_request_duration_seconds",
            "Time to answer an HTTP request.",
            *("http_route", "http_request_method", "http_response_status_code"),
        )
        self.search = self._histogram(
            "proponent_search_seconds", "Time of one pass over the index, as the worker measured it.", "model"
        )
        self.in_flight = self._gauge("proponent_requests_in_flight", "Calls that are being worked on.", "method")
        self.ready = self._gauge("proponent_model_ready", "1 when a worker answers for the model, else 0.", "model")
        self.bundle = self._gauge("proponent_bundle_info", "1 for the bundle that is served.", "model", "digest")

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=_SECONDS)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)
