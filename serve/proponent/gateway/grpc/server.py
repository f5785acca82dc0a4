"""Where the gRPC transport listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from proponent.errors import SpecError
from proponent.gateway.grpc.methods import SERVICE, ExplanationMethods
from proponent.gateway.limits.connections import connection_limit
from proponent.gateway.metrics import Metrics
from proponent.gateway.open_inference.calls import SERVICE as OPEN_INFERENCE
from proponent.gateway.open_inference.calls import OpenInferenceCalls
from proponent.gateway.served_model import Readiness
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import REPLY_BYTES, Settings
from proponent.gateway.tls import Tls
from proponent.gateway.tracing import Tracing

# Calls of one connection; a client keeps those over it back by itself. A call that was given up counts on this side
# until it is dropped, so that a limit near what a caller has open would refuse its next calls (REFUSED_STREAM).
_STREAMS = 2048
# A connection without a call is closed after this; clients open another one unseen.
_IDLE_MS = 300_000


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Health that is asked of models which are served no more."""

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """The protocol knows SERVICE_UNKNOWN only in streams."""
        reply: health_pb2.HealthCheckResponse = await super().Check(request, context)
        if reply.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return reply


class GrpcServer:
    """The listening server with health and, where wanted, reflection.

    Raises:
        SpecError: The address cannot be listened on.
    """

    def __init__(
        self,
        calls: ExplanationCalls,
        readiness: Readiness,
        metrics: Metrics,
        settings: Settings,
        tls: Tls | None,
        tracing: Tracing | None = None,
    ) -> None:
        self._server = grpc.aio.server(options=_options(settings))
        methods = ExplanationMethods(calls, metrics, settings, tracing or Tracing())
        others = OpenInferenceCalls(calls, readiness).methods
        self._server.add_generic_rpc_handlers((methods.handlers(), methods.handlers_of(OPEN_INFERENCE, others)))
        self._health = _Health()
        self._known: set[str] = set()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, OPEN_INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self.port = _listen(self._server, settings.grpc_address, tls)

    async def start(self) -> None:
        """Starts to answer, with the health NOT_SERVING."""
        await self.set_serving(False, {})
        await self._server.start()

    async def set_serving(self, serving: bool, models: Mapping[str, bool]) -> None:
        """Sets the health of the server, of its services, and of each model under ``service/model``; of no other."""
        status = health_pb2.HealthCheckResponse
        states = {"": serving, SERVICE: serving, OPEN_INFERENCE: serving} | {
            f"{SERVICE}/{name}": able for name, able in models.items()
        }
        for name in self._known - states.keys():
            await self._health.set(name, status.SERVICE_UNKNOWN)
        self._known = set(states)
        for name, able in states.items():
            await self._health.set(name, status.SERVING if able else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls and lets those in flight finish within the grace."""
        await self._server.stop(grace_s)


def _options(settings: Settings) -> list[tuple[str, int]]:
    idle_ms, transfer_ms = (round(1000 * s) for s in (settings.idle_timeout, settings.transfer_timeout))
    return [
        ("grpc.max_allowed_incoming_connections", connection_limit(settings.max_connections)),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.server_handshake_timeout_ms", idle_ms),
        ("grpc.http2.settings_timeout", idle_ms),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.keepalive_time_ms", transfer_ms),
        ("grpc.keepalive_timeout_ms", idle_ms),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", REPLY_BYTES),
        ("grpc.so_reuseport", 0),
    ]


def _listen(server: Any, address: str, tls: Tls | None) -> int:
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, tls.grpc_credentials()))
    except RuntimeError as error:
        raise SpecError(f"cannot listen on grpc_address {address!r}: {error}", field="grpc_address") from None
