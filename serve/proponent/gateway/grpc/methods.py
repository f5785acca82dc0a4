"""The calls as gRPC methods: reads messages, metadata and deadlines, writes replies and errors; decides nothing.

Every method is served as a stream of bytes, which looks the same on the wire: so a message that is no protobuf gets
an answer of its own, a caller without a token is refused before the message is read, and one who sends or takes a
message too slowly is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from grpc_status import rpc_status

from proponent.errors import DeadlineError, InvalidInputError, ProponentError
from proponent.gateway.auth import Scope
from proponent.gateway.error_mapping import as_proponent_error, grpc_code, note_hidden
from proponent.gateway.error_mapping import rpc_status as status_of
from proponent.gateway.grpc.stream import explain_stream
from proponent.gateway.metrics import Metrics
from proponent.gateway.request_id import REQUEST_ID, accept_request_id
from proponent.gateway.service import Call, ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.validation import parse
from proponent.v1 import explanation_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ExplanationService"].full_name
# A caller's own clock ends a call a moment before this side's, where the deadline came rounded.
_DEADLINE_TOLERANCE = 0.05

_log = structlog.get_logger("proponent.grpc")
M = TypeVar("M", bound=Message)


class Record:
    """What is logged and measured of one call."""

    def __init__(self, method: str, call: Call) -> None:
        self.method = method
        self.call = call
        self.code = grpc.StatusCode.OK
        self.reason = ""
        self.field = ""

    def fail(self, error: ProponentError) -> None:
        """Notes the error that the call ends with."""
        self.code, self.reason, self.field = grpc_code(error), error.reason, error.field

    def leave(self) -> None:
        """Notes that nobody waits any more: the deadline passed, or the caller left before it."""
        timeout_s = self.call.timeout_s
        if timeout_s is not None and self.call.remaining_s(timeout_s) <= _DEADLINE_TOLERANCE * max(1.0, timeout_s):
            self.code = grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            self.code = grpc.StatusCode.CANCELLED


class ExplanationMethods:
    """The handlers of the public service."""

    def __init__(self, calls: ExplanationCalls, metrics: Metrics, settings: Settings) -> None:
        self._calls = calls
        self._metrics = metrics
        self._settings = settings
        self._bodies = calls.bodies
        self._reading = asyncio.Semaphore(settings.max_messages)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the server registers."""
        calls = self._calls
        unary: dict[str, tuple[type[Message], Callable[[Any, Call], Awaitable[Message]]]] = {
            "Predict": (pb.PredictRequest, calls.predict),
            "Explain": (pb.ExplainRequest, calls.explain),
            "GetExample": (pb.GetExampleRequest, calls.get_example),
            "GetModel": (pb.GetModelRequest, calls.get_model),
            "ScoreExamples": (pb.ScoreExamplesRequest, calls.score_examples),
            "EstimateRemoval": (pb.EstimateRemovalRequest, calls.estimate_removal),
            "FindFlipSet": (pb.FindFlipSetRequest, calls.find_flip_set),
            "ListSuspects": (pb.ListSuspectsRequest, calls.list_suspects),
        }
        behaviours: dict[str, Callable[[Any], Awaitable[None]]] = {
            name: partial(self._unary, name, *values) for name, values in unary.items()
        }
        behaviours["StreamExplain"] = self._stream
        handlers = {name: grpc.stream_stream_rpc_method_handler(_entry(run)) for name, run in behaviours.items()}
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _unary(
        self, method: str, kind: type[M], run: Callable[[M, Call], Awaitable[Message]], context: Any
    ) -> None:
        with self._recorded(method, context) as record, self._bodies.share() as share:
            self._calls.allow(None, record.call)
            data = await self._read(context)
            share.add(len(data))
            reply = await run(parse(kind, data), record.call)
            await self._write(context, reply)

    async def _stream(self, context: Any) -> None:
        with self._recorded("StreamExplain", context) as record:
            self._calls.allow(Scope.EXPLAIN, record.call)
            with self._calls.stream_slot():
                in_flight = self._settings.max_parts
                async for answer in explain_stream(
                    self._calls, _messages(context), record.call, in_flight, self._bodies
                ):
                    await self._write(context, answer)

    async def _read(self, context: Any) -> bytes:
        """The one message of a call; few are read at the same time, since nobody knows how large they will be."""
        try:
            async with asyncio.timeout(self._settings.transfer_timeout), self._reading:
                data = await context.read()
        except TimeoutError:
            message = f"the request did not arrive within {self._settings.transfer_timeout:g} s"
            raise DeadlineError(message, reason="TRANSFER_TOO_SLOW") from None
        if data is grpc.aio.EOF:
            raise InvalidInputError("the call holds no request message", reason="MESSAGE_MISSING")
        return bytes(data)

    async def _write(self, context: Any, reply: Message) -> None:
        try:
            async with asyncio.timeout(self._settings.transfer_timeout):
                await context.write(reply.SerializeToString())
        except TimeoutError:
            message = f"the reply was not taken within {self._settings.transfer_timeout:g} s"
            raise DeadlineError(message, reason="TRANSFER_TOO_SLOW") from None

    @contextmanager
    def _recorded(self, method: str, context: Any) -> Iterator[Record]:
        """Measures a call and logs it on one line, however it ends."""
        call = _call_of(context)
        record = Record(method, call)
        started = time.perf_counter()
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        try:
            yield record
        except asyncio.CancelledError:
            record.leave()
            raise
        except Exception as error:
            known = as_proponent_error(error, call.request_id)
            record.fail(known)
            note_hidden(known, call.request_id)
            raise known from error
        finally:
            seconds = time.perf_counter() - started
            self._metrics.rpc_duration.labels(f"{SERVICE}/{method}", record.code.name).observe(seconds)
            _write_line(record, seconds)


def _entry(run: Callable[[Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    """A handler as the server calls it; an error ends the call with its status."""

    async def entry(_: Any, context: Any) -> None:
        try:
            await run(context)
        except ProponentError as error:
            await _abort(context, error)

    return entry


async def _messages(context: Any) -> AsyncIterator[bytes]:
    while (data := await context.read()) is not grpc.aio.EOF:
        yield data


def _call_of(context: Any) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(
        request_id=accept_request_id(metadata.get(REQUEST_ID)),
        authorization=metadata.get("authorization", ""),
        timeout_s=context.time_remaining(),
    )


async def _abort(context: Any, error: ProponentError) -> NoReturn:
    status = rpc_status.to_status(status_of(error))
    await context.abort(status.code, status.details, (*status.trailing_metadata, *context.trailing_metadata()))
    raise error


def _write_line(record: Record, seconds: float) -> None:
    fields = {name: value for name in ("reason", "field") if (value := getattr(record, name))}
    _log.info(
        "rpc",
        method=record.method,
        code=record.code.name,
        ms=round(seconds * 1000, 2),
        request_id=record.call.request_id,
        **fields,
    )
