"""Closed-loop clients: each sends its next request as soon as it has the answer to the last one.

A client is a connection of its own. Requests are serialised before the clock starts and replies are not parsed, so
that little of the processor goes to this side; of every client the first reply is read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc

_TIMEOUT_S = 60.0
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
Send = Callable[[], Awaitable[bytes]]
"""One request; raises where the answer is an error."""


@dataclass(frozen=True)
class Call:
    """What a client sends, and where to.

    Attributes:
        kind: ``grpc``, ``http`` or ``stream``.
        address: ``host:port``.
        path: Full name of the gRPC method, or the path of the URL.
        body: The serialised message, or the body.
        headers: Metadata, or headers.
    """

    kind: str
    address: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What some clients saw: seconds of each answered request, and how many errors of each kind."""

    seconds: list[float]
    errors: dict[str, int]
    first: bytes


def generate(call: Call, clients: int, seconds: float, warm_up_s: float) -> Sample:
    """Runs clients in this process; answers that begin within the warm-up are not counted."""
    return asyncio.run(_generate(call, clients, seconds, warm_up_s))


async def _generate(call: Call, clients: int, seconds: float, warm_up_s: float) -> Sample:
    taken: list[float] = []
    errors: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        senders = [await _OPEN[call.kind](call, stack) for _ in range(clients)]
        first = await senders[0]()
        begin = time.perf_counter() + warm_up_s
        await asyncio.gather(*(_repeat(send, begin, begin + seconds, taken, errors) for send in senders))
    return Sample(taken, dict(errors), first)


async def _repeat(send: Send, begin: float, end: float, taken: list[float], errors: Counter[str]) -> None:
    while (started := time.perf_counter()) < end:
        try:
            await send()
        except Exception as error:
            errors[_name(error)] += 1
            await asyncio.sleep(0.01)
        else:
            if started >= begin:
                taken.append(time.perf_counter() - started)


def _name(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else f"{type(error).__name__}: {error}"


async def _open_grpc(call: Call, stack: AsyncExitStack) -> Send:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(call.address, options=_OWN_CONNECTION))
    method, metadata = channel.unary_unary(call.path), tuple(call.headers.items())

    async def send() -> bytes:
        return bytes(await method(call.body, metadata=metadata, timeout=_TIMEOUT_S))

    return send


async def _open_stream(call: Call, stack: AsyncExitStack) -> Send:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(call.address, options=_OWN_CONNECTION))
    stream = channel.stream_stream(call.path)(metadata=tuple(call.headers.items()))
    stack.callback(stream.cancel)

    async def send() -> bytes:
        await stream.write(call.body)
        return bytes(await stream.read())

    return send


async def _open_http(call: Call, stack: AsyncExitStack) -> Send:
    host, _, port = call.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))  # asyncio turns Nagle's algorithm off
    stack.callback(writer.close)
    headers = {"host": call.address, "content-length": str(len(call.body)), **call.headers}
    head = f"POST {call.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = head.encode() + b"\r\n" + call.body

    async def send() -> bytes:
        writer.write(request)
        status, body = await _read_response(reader)
        if status != 200:
            raise ConnectionError(f"status {status}")
        return body

    return send


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    status = int(lines[0].split(" ")[1])
    if "content-length" in headers:
        return status, await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size + 2))
    await reader.readline()
    return status, b"".join(part[:-2] for part in parts)


_OPEN: dict[str, Callable[[Call, AsyncExitStack], Awaitable[Send]]] = {
    "grpc": _open_grpc,
    "http": _open_http,
    "stream": _open_stream,
}
