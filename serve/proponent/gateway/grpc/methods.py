"""The calls as gRPC methods: reads messages, metadata and deadlines, writes replies and errors; decides nothing.

Every method is served as a stream of bytes, which looks the same on the wire: so a message that is not protobuf gets
an answer of its own, a caller without a token is refused before the message is read, and one who sends or takes a
message too slowly is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import Message
from grpc_status import rpc_status

from proponent.errors import DeadlineError, InvalidInputError, ProponentError
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

_log = structlog.get_logger("proponent.grpc")


class CallRecord:
    """What is logged and measured of one call."""

    def __init__(self, method: str, context: CallContext) -> None:
        self.method = method
        self.context = context
        self.code = grpc.StatusCode.OK
        self.reason = ""
        self.field = ""

    def fail(self, error: ProponentError) -> None:
        """Notes the error that the call ends with."""
        self.code, self.reason, self.field = grpc_code(error), error.reason, error.field

    def leave(self) -> None:
        """Notes that nobody waits any more: the deadline passed, or the caller left before it."""
        timeout_s = self.context.timeout_s
        if timeout_s is not None and self.context.remaining_s(timeout_s) <= _DEADLINE_TOLERANCE * max(1.0, timeout_s):
            self.code, self.reason = grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError.default_reason
        else:
            self.code, self.reason = grpc.StatusCode.CANCELLED, ABANDONED


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
        behaviours = {name: partial(self._unary, f"{service}/{name}", method) for name, method in methods.items()}
        handlers = {
            name: grpc.stream_stream_rpc_method_handler(_entry(run)) for name, run in (behaviours | streams).items()
        }
        return grpc.method_handlers_generic_handler(service, handlers)

    async def _unary(self, name: str, method: Method, rpc: Any) -> None:
        with self._recorded(name, rpc) as record, self._calls.bodies.reservation() as reservation:
            context = record.context
            if not method.public:
                context = self._calls.permit(context, _authorization(rpc), method.scope)
            data = await self._read(rpc)
            reservation.add(len(data))
            reply = await method.run(parse(method.request, data), context)
            await self._write(rpc, reply)

    async def _stream(self, rpc: Any) -> None:
        with self._recorded(f"{SERVICE}/StreamExplain", rpc) as record:
            scope = self._calls.methods["Explain"].scope
            context = self._calls.permit(record.context, _authorization(rpc), scope)
            with self._calls.stream_slot():
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
                async with asyncio.timeout(longest):
                    data = await rpc.read()
            except TimeoutError:
                raise DeadlineError(f"no item arrived within {longest:g} s", reason="TRANSFER_TOO_SLOW") from None
            if data is grpc.aio.EOF:
                return
            yield data

    async def _read(self, rpc: Any) -> bytes:
        """The one message of a call; few are read at the same time, since nobody knows how large they will be."""
        try:
            async with self._reading.slot():
                data = await rpc.read()
        except TimeoutError:
            longest, fair = self._settings.transfer_timeout, self._settings.fair_transfer_timeout
            message = f"the request did not arrive within {longest:g} s, or {fair:g} s while others waited"
            raise DeadlineError(message, reason="TRANSFER_TOO_SLOW") from None
        if data is grpc.aio.EOF:
            raise InvalidInputError("the call holds no request message", reason="MESSAGE_MISSING")
        return bytes(data)

    async def _write(self, rpc: Any, reply: Message) -> None:
        try:
            async with asyncio.timeout(self._settings.transfer_timeout):
                await rpc.write(reply.SerializeToString())
        except TimeoutError:
            message = f"the reply was not taken within {self._settings.transfer_timeout:g} s"
            raise DeadlineError(message, reason="TRANSFER_TOO_SLOW") from None

    @contextmanager
    def _recorded(self, name: str, rpc: Any) -> Iterator[CallRecord]:
        """Measures a call and logs it on one line, however it ends."""
        metadata = _metadata(rpc)
        request_id, span = accept_request_id(metadata.get(REQUEST_ID)), self._tracing.start(name, metadata)
        record = CallRecord(
            name.rpartition("/")[2], CallContext(request_id, timeout_s=rpc.time_remaining(), span=span)
        )
        started = time.perf_counter()
        rpc.set_trailing_metadata(((REQUEST_ID, request_id),))
        try:
            yield record
        except asyncio.CancelledError:
            record.leave()
            raise
        except Exception as error:
            known = as_proponent_error(error, request_id)
            record.fail(known)
            note_hidden(known, request_id)
            raise known from error
        finally:
            seconds = time.perf_counter() - started
            found_by = exemplar(request_id, span.trace_id)
            self._metrics.rpc_ended(name, record.code.name, record.reason, seconds, found_by)
            span.end(name, _attributes(name, record), record.reason, failed=record.code in _FAILURES)
            _write_line(record, seconds)


def explain_stream(
    calls: ExplanationCalls, messages: AsyncIterator[bytes], context: CallContext, in_flight: int
) -> AsyncIterator[pb.StreamExplainResponse]:
    """Responses as they come, errors item by item.

    Reads on while fewer than ``in_flight`` items are being worked on and the last one read has its slot.
    """

    async def handle(message: bytes, admitted: Admitted) -> pb.StreamExplainResponse:
        await calls.bodies.reserve_when_free(len(message))
        item = pb.StreamExplainRequest()
        try:
            item = parse(pb.StreamExplainRequest, message)
            if not item.HasField("request"):
                raise InvalidInputError("field 'request' is missing: value is required", field="request")
            part = replace(calls.confirm(context), admitted=admitted)
            reply = await calls.methods["Explain"].run(item.request, part)
            return pb.StreamExplainResponse(request_id=item.request.request_id, response=reply)
        except Exception as error:
            known = to_item_error(as_proponent_error(error, context.request_id))
            return pb.StreamExplainResponse(request_id=item.request.request_id, error=known)
        finally:
            calls.bodies.release(len(message))

    return map_concurrently(messages, handle, in_flight)


def _entry(run: Callable[[Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    """A handler as the server calls it; an error ends the call with its status."""

    async def entry(_: Any, rpc: Any) -> None:
        try:
            await run(rpc)
        except ProponentError as error:
            await _abort(rpc, error)

    return entry


def _authorization(rpc: Any) -> str:
    return _metadata(rpc).get("authorization", "")


def _metadata(rpc: Any) -> dict[str, str]:
    return {key: value for key, value in rpc.invocation_metadata() or () if isinstance(value, str)}


async def _abort(rpc: Any, error: ProponentError) -> NoReturn:
    status = rpc_status.to_status(status_of(error))
    await rpc.abort(status.code, status.details, (*status.trailing_metadata, *rpc.trailing_metadata()))
    raise error


def _attributes(name: str, record: CallRecord) -> dict[str, str]:
    return {
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "rpc.response.status_code": record.code.name,
        "proponent.request_id": record.context.request_id,
    }


def _write_line(record: CallRecord, seconds: float) -> None:
    fields = {"reason": record.reason, "field": record.field, "trace_id": record.context.span.trace_id}
    _log.info(
        "rpc",
        method=record.method,
        code=record.code.name,
        ms=round(seconds * 1000, 2),
        request_id=record.context.request_id,
        **{name: value for name, value in fields.items() if value},
    )
