"""The calls as gRPC methods: reads messages, metadata and deadlines, writes replies and errors; decides nothing.

Every method takes a stream of bytes, which looks the same on the wire: so a message that is not protobuf gets an
answer of its own, a caller without a token is refused before the message is read, and one who sends or takes a
message too slowly is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import structlog
from google.protobuf.message import Message
from grpc_status import rpc_status

from proponent.errors import DeadlineError, InvalidInputError, ProponentError
from proponent.gateway.auth import Scope
from proponent.gateway.bound import Bound
from proponent.gateway.call import CallContext, Method
from proponent.gateway.concurrency import Admitted, map_concurrently
from proponent.gateway.error_mapping import ABANDONED, as_proponent_error, grpc_code, note_hidden, to_item_error
from proponent.gateway.error_mapping import rpc_status as status_of
from proponent.gateway.limits.read_slots import ReadSlots
from proponent.gateway.metrics import Metrics, exemplar
from proponent.gateway.request_id import REQUEST_ID, accept_request_id
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.tracing import Tracing
from proponent.gateway.validation import parse
from proponent.v1 import explanation_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ExplanationService"].full_name
# A caller's own clock ends a call a moment before this side's, where the deadline came rounded.
_DEADLINE_TOLERANCE = 0.05
# By OpenTelemetry's conventions the other codes are the caller's errors.
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

_TOO_SLOW = "TRANSFER_TOO_SLOW"

_log = structlog.get_logger("proponent.grpc")


class CallRecord:
    """What is logged and measured of one call: a block that ends with one line and one observation, however it ends.

    Args:
        name: Service and method.
        rpc: The call.
        metrics: Where it is counted.
        tracing: Where its span begins.

    Attributes:
        metadata: The texts among what the caller sent along.
        context: The call as the service sees it.
    """

    def __init__(self, name: str, rpc: Any, metrics: Metrics, tracing: Tracing) -> None:
        self._name, self._metrics = name, metrics
        self._code, self._reason, self._field = grpc.StatusCode.OK, "", ""
        self.metadata = {key: value for key, value in rpc.invocation_metadata() or () if isinstance(value, str)}
        request_id = accept_request_id(self.metadata.get(REQUEST_ID))
        self.context = CallContext(
            request_id, timeout_s=rpc.time_remaining(), span=tracing.start(name, self.metadata)
        )
        rpc.set_trailing_metadata(((REQUEST_ID, request_id),))

    @property
    def authorization(self) -> str:
        """Value of the header of that name."""
        return self.metadata.get("authorization", "")

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        known = None
        if isinstance(error, asyncio.CancelledError):
            self._leave()
        elif isinstance(error, Exception):
            known = as_proponent_error(error, self.context.request_id)
            self._code, self._reason, self._field = grpc_code(known), known.reason, known.field
            note_hidden(known, self.context.request_id)
        self._note(time.perf_counter() - self._started)
        if known is not None:
            raise known from error

    def _leave(self) -> None:
        """Nobody waits any more: the deadline passed, or the caller left before it."""
        timeout_s = self.context.timeout_s
        if timeout_s is not None and self.context.remaining_s(timeout_s) <= _DEADLINE_TOLERANCE * max(1.0, timeout_s):
            self._code, self._reason = grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError.default_reason
        else:
            self._code, self._reason = grpc.StatusCode.CANCELLED, ABANDONED

    def _note(self, seconds: float) -> None:
        context, code = self.context, self._code.name
        found_by = exemplar(context.request_id, context.span.trace_id)
        self._metrics.rpc_ended(self._name, code, self._reason, seconds, found_by)
        if context.span.trace_id:
            attributes = {
                "rpc.system.name": "grpc",
                "rpc.method": self._name,
                "rpc.response.status_code": code,
                "proponent.request_id": context.request_id,
            }
            context.span.end(self._name, attributes, self._reason, failed=self._code in _FAILURES)
        _log.info(
            "rpc",
            method=self._name.rpartition("/")[2],
            code=code,
            ms=round(seconds * 1000, 2),
            request_id=context.request_id,
            **_told(reason=self._reason, field=self._field, trace_id=context.span.trace_id),
        )


class ExplanationMethods:
    """The handlers of the public services."""

    def __init__(self, calls: ExplanationCalls, metrics: Metrics, settings: Settings, tracing: Tracing) -> None:
        self._calls = calls
        self._metrics = metrics
        self._tracing = tracing
        self._settings = settings
        self._reading = ReadSlots(settings.max_messages, settings.transfer_timeout, settings.fair_transfer_timeout)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the server registers."""
        return self.handlers_of(SERVICE, self._calls.methods, StreamExplain=self._stream)

    def handlers_of(
        self, service: str, methods: Mapping[str, Method], **streams: Callable[[Any], Awaitable[None]]
    ) -> grpc.GenericRpcHandler:
        """The handlers of a service, one for each of its calls."""
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(_entry(partial(self._unary, f"{service}/{name}", method)))
            for name, method in methods.items()
        }
        handlers |= {name: grpc.stream_stream_rpc_method_handler(_entry(run)) for name, run in streams.items()}
        return grpc.method_handlers_generic_handler(service, handlers)

    async def _unary(self, name: str, method: Method, rpc: Any) -> bytes:
        with self._recorded(name, rpc) as record:
            context = record.context
            if not method.public:
                context = self._calls.permit(context, record.authorization, method.scope)
            with self._calls.bodies.reservation(context.caller) as reservation:
                data = await self._read(rpc)
                reservation.add(len(data))
                reply = await method.run(parse(method.request, data), context)
        self._leave_in_time(rpc, context.request_id)
        return bytes(reply.SerializeToString())

    def _recorded(self, name: str, rpc: Any) -> CallRecord:
        return CallRecord(name, rpc, self._metrics, self._tracing)

    def _leave_in_time(self, rpc: Any, request_id: str) -> None:
        """Leaves a call whose reply, which is on its way once the handler has returned, is not taken."""
        task = asyncio.current_task()

        def leave() -> None:
            if task is not None and task.cancel():
                self._metrics.error("grpc", _TOO_SLOW)
                _log.warning("reply not taken", within_s=self._settings.transfer_timeout, request_id=request_id)

        timer = asyncio.get_running_loop().call_later(self._settings.transfer_timeout, leave)
        rpc.add_done_callback(lambda _: timer.cancel())

    async def _stream(self, rpc: Any) -> None:
        with self._recorded(f"{SERVICE}/StreamExplain", rpc) as record:
            context = self._calls.permit(record.context, record.authorization, Scope.EXPLAIN)
            with self._calls.stream_slot(context):
                await rpc.send_initial_metadata(((REQUEST_ID, context.request_id),))
                in_flight = self._settings.max_parts
                async for response in explain_stream(self._calls, self._messages(rpc), context, in_flight):
                    if response.HasField("error"):
                        self._metrics.error("grpc", response.error.reason)
                    await self._write(rpc, response)

    async def _messages(self, rpc: Any) -> AsyncIterator[bytes]:
        """The messages of a stream; one that sends none for long gives its place to others."""
        longest = max(self._settings.transfer_timeout, self._settings.request_timeout)
        while True:
            try:
                with Bound(longest):
                    data = await rpc.read()
            except TimeoutError:
                raise DeadlineError(f"no item arrived within {longest:g} s", reason=_TOO_SLOW) from None
            if data is grpc.aio.EOF:
                return
            yield data

    async def _read(self, rpc: Any) -> bytes:
        """The one message of a call; few are read at the same time, since nobody knows how large they will be."""
        try:
            data = await self._reading.read(rpc.read)
        except TimeoutError:
            longest, fair = self._settings.transfer_timeout, self._settings.fair_transfer_timeout
            message = f"the request did not arrive within {longest:g} s, or {fair:g} s while others waited"
            raise DeadlineError(message, reason=_TOO_SLOW) from None
        if data is grpc.aio.EOF:
            raise InvalidInputError("the call holds no request message", reason="MESSAGE_MISSING")
        return bytes(data)

    async def _write(self, rpc: Any, reply: Message) -> None:
        try:
            with Bound(self._settings.transfer_timeout):
                await rpc.write(reply.SerializeToString())
        except TimeoutError:
            message = f"the reply was not taken within {self._settings.transfer_timeout:g} s"
            raise DeadlineError(message, reason=_TOO_SLOW) from None


def explain_stream(
    calls: ExplanationCalls, messages: AsyncIterator[bytes], context: CallContext, in_flight: int
) -> AsyncIterator[pb.StreamExplainResponse]:
    """Responses as they come, errors item by item.

    Reads on while fewer than ``in_flight`` items are being worked on and the last one read has its slot.
    """

    async def handle(message: bytes, admitted: Admitted) -> pb.StreamExplainResponse:
        item = pb.StreamExplainRequest()
        with calls.bodies.reservation(context.caller) as reservation:
            await reservation.add_when_free(len(message))
            try:
                item = parse(pb.StreamExplainRequest, message)
                if not item.HasField("request"):
                    raise InvalidInputError("field 'request' is missing: value is required", field="request")
                part = replace(calls.confirm(context, Scope.EXPLAIN), admitted=admitted)
                reply = await calls.methods["Explain"].run(item.request, part)
                return pb.StreamExplainResponse(request_id=item.request.request_id, response=reply)
            except Exception as error:
                known = to_item_error(as_proponent_error(error, context.request_id))
                return pb.StreamExplainResponse(request_id=item.request.request_id, error=known)

    return map_concurrently(messages, handle, in_flight)


def _entry(run: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """A handler as the server calls it; an error ends the call with its status."""

    async def entry(_: Any, rpc: Any) -> Any:
        try:
            return await run(rpc)
        except ProponentError as error:
            await _abort(rpc, error)

    return entry


async def _abort(rpc: Any, error: ProponentError) -> NoReturn:
    status = rpc_status.to_status(status_of(error))
    await rpc.abort(status.code, status.details, (*status.trailing_metadata, *rpc.trailing_metadata()))
    raise error


def _told(**fields: str) -> dict[str, str]:
    """Those that say something."""
    return {name: value for name, value in fields.items() if value}
