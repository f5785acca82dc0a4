"""The gRPC door: translates messages, metadata, deadlines and errors; decides nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from proponent.errors import ProponentError, SpecError
from proponent.gateway.auth import Scope
from proponent.gateway.metrics import Metrics
from proponent.gateway.request_id import REQUEST_ID, accept_request_id
from proponent.gateway.service import Call, ExplanationCalls
from proponent.gateway.settings import Security, Settings
from proponent.gateway.status import as_proponent_error, grpc_code
from proponent.gateway.status import rpc_status as status_of
from proponent.gateway.stream import explain_stream
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import explanation_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["ExplanationService"].full_name

_log = structlog.get_logger("proponent.grpc")
Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Record:
    """What is logged and measured of one call."""

    def __init__(self, method: str, request_id: str) -> None:
        self.method = method
        self.request_id = request_id
        self.code = grpc.StatusCode.OK
        self.reason = ""
        self.field = ""

    def fail(self, error: ProponentError) -> None:
        """Notes the error that the call ends with."""
        self.code, self.reason, self.field = grpc_code(error), error.reason, error.field


class ExplanationServicer(explanation_pb2_grpc.ExplanationServiceServicer):
    """One method for each call; all go the same way."""

    def __init__(self, calls: ExplanationCalls, metrics: Metrics, in_flight: int) -> None:
        self._calls = calls
        self._metrics = metrics
        self._in_flight = in_flight

    async def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        """See the proto."""
        return await self._answer("Predict", self._calls.predict, request, context)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """See the proto."""
        return await self._answer("Explain", self._calls.explain, request, context)

    async def GetExample(self, request: pb.GetExampleRequest, context: Any) -> pb.GetExampleResponse:
        """See the proto."""
        return await self._answer("GetExample", self._calls.get_example, request, context)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        """See the proto."""
        return await self._answer("GetModel", self._calls.get_model, request, context)

    async def ScoreExamples(self, request: pb.ScoreExamplesRequest, context: Any) -> pb.ScoreExamplesResponse:
        """See the proto."""
        return await self._answer("ScoreExamples", self._calls.score_examples, request, context)

    async def EstimateRemoval(self, request: pb.EstimateRemovalRequest, context: Any) -> pb.EstimateRemovalResponse:
        """See the proto."""
        return await self._answer("EstimateRemoval", self._calls.estimate_removal, request, context)

    async def FindFlipSet(self, request: pb.FindFlipSetRequest, context: Any) -> pb.FindFlipSetResponse:
        """See the proto."""
        return await self._answer("FindFlipSet", self._calls.find_flip_set, request, context)

    async def ListSuspects(self, request: pb.ListSuspectsRequest, context: Any) -> pb.ListSuspectsResponse:
        """See the proto."""
        return await self._answer("ListSuspects", self._calls.list_suspects, request, context)

    async def StreamExplain(
        self, request_iterator: AsyncIterator[pb.StreamExplainRequest], context: Any
    ) -> AsyncIterator[pb.StreamExplainResponse]:
        """See the proto."""
        call = _call_of(context)
        with self._recorded("StreamExplain", call) as record:
            try:
                self._calls.allow(Scope.EXPLAIN, call)
            except ProponentError as error:
                await _abort(context, error, record)
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            async for answer in explain_stream(self._calls, request_iterator, call, self._in_flight):
                yield answer

    async def _answer(
        self, method: str, run: Callable[[Request, Call], Awaitable[Reply]], request: Request, context: Any
    ) -> Reply:
        call = _call_of(context)
        with self._recorded(method, call) as record:
            try:
                reply = await run(request, call)
            except Exception as error:
                if not isinstance(error, ProponentError):
                    _log.exception("defect", method=method, request_id=call.request_id)
                await _abort(context, as_proponent_error(error), record)
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            return reply

    @contextmanager
    def _recorded(self, method: str, call: Call) -> Iterator[Record]:
        """Measures a call and logs it on one line, however it ends."""
        record = Record(method, call.request_id)
        started = time.perf_counter()
        try:
            yield record
        except asyncio.CancelledError:
            record.code = grpc.StatusCode.CANCELLED
            raise
        finally:
            seconds = time.perf_counter() - started
            self._metrics.rpc_duration.labels(f"{SERVICE}/{method}", record.code.name).observe(seconds)
            _write(record, seconds)


class GrpcServer:
    """The listening server with health and, where wanted, reflection.

    Raises:
        SpecError: The address cannot be listened on.
    """

    def __init__(self, calls: ExplanationCalls, metrics: Metrics, settings: Settings) -> None:
        self._server = grpc.aio.server(options=_options(settings))
        servicer = ExplanationServicer(calls, metrics, settings.limits.stream_in_flight)
        explanation_pb2_grpc.add_ExplanationServiceServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self.port = _listen(self._server, settings.grpc_address, settings.security)

    async def start(self) -> None:
        """Starts to answer, with the health NOT_SERVING."""
        await self.set_serving(False)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the server and of the service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls and lets those in flight finish within the grace."""
        await self._server.stop(grace_s)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.limits.message_bytes),
        ("grpc.max_send_message_length", settings.limits.reply_bytes),
        ("grpc.so_reuseport", 0),
    ]


def _listen(server: Any, address: str, security: Security) -> int:
    try:
        if security.tls_certificate is None or security.tls_key is None:
            return int(server.add_insecure_port(address))
        client_ca = security.tls_client_ca
        credentials = grpc.ssl_server_credentials(
            [(security.tls_key.read_bytes(), security.tls_certificate.read_bytes())],
            root_certificates=client_ca.read_bytes() if client_ca else None,
            require_client_auth=client_ca is not None,
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise SpecError(f"cannot listen on grpc_address {address!r}: {error}", field="grpc_address") from None


def _call_of(context: Any) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(
        request_id=accept_request_id(metadata.get(REQUEST_ID)),
        authorization=metadata.get("authorization", ""),
        timeout_s=context.time_remaining(),
    )


async def _abort(context: Any, error: ProponentError, record: Record) -> NoReturn:
    record.fail(error)
    status = rpc_status.to_status(status_of(error))
    metadata = (*status.trailing_metadata, (REQUEST_ID, record.request_id))
    await context.abort(status.code, status.details, metadata)
    raise error


def _write(record: Record, seconds: float) -> None:
    fields = {name: value for name in ("reason", "field") if (value := getattr(record, name))}
    _log.info(
        "rpc",
        method=record.method,
        code=record.code.name,
        ms=round(seconds * 1000, 2),
        request_id=record.request_id,
        **fields,
    )
