"""Traces as the gateway's code sees them: a span for each call, one for each request to a worker, and its stages.

Off by default, where every span is one that does nothing; ``gateway.otlp`` has those that are sent to a collector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from proponent.v1.worker_pb2 import Stage

Attributes = Mapping[str, str | int | float | bool]


class Span:
    """A span of a call or of a request to a worker; this one records nothing.

    Attributes:
        trace_id: 32 hexadecimal digits; empty where the call is not traced.
        traceparent: The span as W3C Trace Context names it to whoever works for it; empty like ``trace_id``.
    """

    trace_id = ""
    traceparent = ""

    def request(self, name: str, attributes: Attributes) -> AbstractContextManager[Span]:
        """The span of a request that this one makes, for the length of a block; it notes the block's error."""
        return _UNTRACED_BLOCK

    def add_stages(self, stages: Iterable[Stage]) -> None:
        """Adds what a worker measured as spans below this one."""

    def end(self, name: str, attributes: Attributes, error_type: str = "", *, failed: bool = False) -> None:
        """Ends it with its final name.

        Args:
            name: Method, or HTTP method and route.
            attributes: By OpenTelemetry's conventions.
            error_type: Reason of an error, or empty.
            failed: Whether the error is this side's, not the caller's.
        """


class Tracing:
    """Where spans begin; here none does."""

    def start(self, name: str, headers: Mapping[str, str]) -> Span:
        """The span of a call, below that of its caller where the headers hold a ``traceparent``."""
        return UNTRACED

    def close(self) -> None:
        """Sends what has not been sent yet; may take some seconds."""


UNTRACED = Span()
_UNTRACED_BLOCK = nullcontext(UNTRACED)
