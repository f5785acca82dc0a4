"""Traces by OpenTelemetry, sent to a collector by OTLP over HTTP; needs the optional extra ``otel``.

The worker knows nothing of OpenTelemetry: it says when its stages began and ended, by the clock that it shares with
the gateway, and they become spans here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import proponent
from proponent.errors import SpecError
from proponent.gateway.error_mapping import reason_of
from proponent.gateway.tracing import Attributes, Span, Tracing
from proponent.v1.worker_pb2 import Stage

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise SpecError(
        f"traces need a package that is not installed ({error.name}); install 'proponent[otel]'",
        field="otlp_endpoint",
    ) from None

_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracing(Tracing):
    """Sends spans in the background; a collector that is away costs spans, never a call.

    Args:
        endpoint: Base URL of the collector, e.g. ``http://127.0.0.1:4318``.
        sampled_share: Share of the calls that are traced, 0 to 1; a caller's ``traceparent`` decides for its own.
    """

    def __init__(self, endpoint: str, sampled_share: float) -> None:
        resource = Resource.create({"service.name": "proponent", "service.version": proponent.__version__})
        sampler = ParentBasedTraceIdRatio(sampled_share)
        self._provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("proponent.gateway", proponent.__version__)

    def start(self, name: str, headers: Mapping[str, str]) -> Span:
        """The span of a call, below that of its caller where the headers hold a ``traceparent``."""
        parent = _PROPAGATOR.extract(headers)
        return _OtlpSpan(self._tracer, self._tracer.start_span(name, parent, trace.SpanKind.SERVER))

    def close(self) -> None:
        """Sends what has not been sent yet; may take some seconds."""
        self._provider.shutdown()


class _OtlpSpan(Span):
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        self.traceparent = carrier.get("traceparent", "")
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else ""

    @contextmanager
    def request(self, name: str, attributes: Attributes) -> Iterator[Span]:
        """The span of a request that this one makes, for the length of a block; it notes the block's error."""
        span = self._tracer.start_span(name, self._context, trace.SpanKind.CLIENT, attributes)
        error_type = ""
        try:
            yield (below := _OtlpSpan(self._tracer, span))
        except BaseException as error:
            error_type = reason_of(error)
            raise
        finally:
            below.end(name, {}, error_type, failed=bool(error_type))

    def add_stages(self, stages: Iterable[Stage]) -> None:
        """Adds what a worker measured as spans below this one."""
        if not self._span.is_recording():
            return
        since_1970 = time.time_ns() - time.monotonic_ns()
        for stage in stages:
            span = self._tracer.start_span(stage.name, self._context, start_time=since_1970 + stage.start_ns)
            span.end(since_1970 + stage.end_ns)

    def end(self, name: str, attributes: Attributes, error_type: str = "", *, failed: bool = False) -> None:
        """Ends it with its final name; see ``Span``."""
        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if error_type:
            self._span.set_attribute("error.type", error_type)
        if failed:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()
