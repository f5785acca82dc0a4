"""Prometheus figures, named as OpenTelemetry names them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.rpc_duration = Histogram(
            "rpc_server_call_duration_seconds",
            "Time to answer a gRPC call.",
            ("method", "code"),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.http_duration = Histogram(
            "http_server_request_duration_seconds",
            "Time to answer an HTTP request.",
            ("http_route", "http_request_method", "http_response_status_code"),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.search = Histogram(
            "proponent_search_seconds",
            "Time of one pass over the index, as the worker measured it.",
            ("model",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.in_flight = Gauge(
            "proponent_requests_in_flight",
            "Calls that are being worked on.",
            ("method",),
            registry=self._registry,
        )
        self.ready = Gauge(
            "proponent_model_ready",
            "1 when a worker answers for the model, else 0.",
            ("model",),
            registry=self._registry,
        )
        self.bundle = Gauge(
            "proponent_bundle_info",
            "1 for the bundle that is served.",
            ("model", "digest"),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)
