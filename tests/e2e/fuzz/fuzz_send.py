"""Sends inputs to a service, several at a time, and hands on what each of them found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
from fuzz_inputs import RAW_HTTP, STREAM, FuzzInput
from fuzz_verdict import error_fault, raw_http_fault, reply_fault
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import open_inference_pb2 as oip

LONGEST_S = 30.0
"""An input that takes longer hangs."""
AT_ONCE = 16
_CHANNELS = 4
_HURRY = b"timeout"
"""The parameter by which a caller of ModelInfer sets a deadline that may pass."""
Report = Callable[[FuzzInput, str], None]


class Sender:
    """Both transports of a service."""

    def __init__(self, grpc_address: str, http_address: tuple[str, int]) -> None:
        self._channels = [grpc.aio.insecure_channel(grpc_address, [("n", n)]) for n in range(_CHANNELS)]
        self._http = http_address

    async def fault(self, given: FuzzInput) -> str:
        """What is wrong with the answer to an input; empty where nothing is."""
        try:
            async with asyncio.timeout(LONGEST_S):
                return await self._answered(given)
        except TimeoutError:
            return f"no answer within {LONGEST_S:g} s"
        except grpc.aio.AioRpcError as error:
            hurried = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and _HURRY in given.parts[0]
            return "" if hurried else error_fault(error)

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()

    async def _answered(self, given: FuzzInput) -> str:
        if given.kind == RAW_HTTP:
            return raw_http_fault(await self._over_http(given.parts[0]))
        channel, path = self._channels[given.number % _CHANNELS], f"/{given.method}"
        if given.kind == STREAM:
            return await self._stream(channel, path, given)
        reply = await channel.unary_unary(path)(given.parts[0])
        return reply_fault(REPLIES[given.method], reply)

    async def _stream(self, channel: Any, path: str, given: FuzzInput) -> str:
        """Each item has an answer."""
        call, answers = channel.stream_stream(path)(iter(given.parts)), 0
        async for reply in call:
            answers += 1
            if fault := reply_fault(REPLIES[given.method], reply):
                return fault
        return "" if answers == len(given.parts) else f"{answers} answers to {len(given.parts)} items"

    async def _over_http(self, data: bytes) -> bytes:
        """What a connection answers until it is closed; it is told at once that nothing more will come."""
        reader, writer = await asyncio.open_connection(*self._http)
        try:
            writer.write(data)
            writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def send_all(
    sender: Sender, inputs: Iterable[FuzzInput], report: Report, progress: Callable[[int], None]
) -> None:
    """Sends all inputs; ``progress`` is told after each how many have been answered."""
    waiting, answered = iter(inputs), 0

    async def work() -> None:
        nonlocal answered
        for given in waiting:
            if fault := await sender.fault(given):
                report(given, fault)
            answered += 1
            progress(answered)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def _replies() -> Iterator[tuple[str, type[Message]]]:
    for module, name in ((pb, "ExplanationService"), (oip, "GRPCInferenceService")):
        service: Any = module.DESCRIPTOR.services_by_name[name]
        for method in service.methods:
            yield f"{service.full_name}/{method.name}", GetMessageClass(method.output_type)


REPLIES: Mapping[str, type[Message]] = dict(_replies())
