"""The floor below the gateway's gRPC calls: a method of grpc's own asynchronous server that does nothing.

``load.py`` starts it as a process of its own, which prints its port and answers until it is ended.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import psutil
import uvloop
from load_clients import Call

_REPLY = bytes(128)
"""As large as the reply to a prediction."""


@dataclass(frozen=True)
class Floor:
    """A running server, measured as the gateway is."""

    process: psutil.Process
    address: str

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that it has used."""
        return {"gateway": sum(self.process.cpu_times()[:2])}

    def call(self, body: bytes) -> Call:
        """A call of its method."""
        return Call("grpc", self.address, "/floor/Nothing", body)


@contextmanager
def running_floor(python: str) -> Iterator[Floor]:
    """The server, for the length of a block."""
    process = subprocess.Popen([python, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Floor(psutil.Process(process.pid), f"127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _nothing(_: Any, rpc: Any) -> bytes:
    await rpc.read()  # as the gateway does, which refuses callers before it reads their messages
    return _REPLY


async def _serve() -> None:
    server = grpc.aio.server()
    methods = {"Nothing": grpc.stream_unary_rpc_method_handler(_nothing)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(uvloop.run(_serve()))
