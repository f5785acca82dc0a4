"""One TorchServe process with its workers, with a watchdog that ends them with the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Self

from proponent.errors import UnavailableError
from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve import watchdog
from proponent.gateway.torchserve.launch import (
    LOOPBACK,
    Layout,
    Ports,
    TorchServeKeys,
    command,
    environment,
    free_ports,
    write_config,
)
from proponent.gateway.torchserve.management import Management

_KILL_WAIT_S = 5.0
_POLL_S = 0.1
# Java prints this once all of its ports are its own.
_STARTED = "Model server started."


class TorchServe:
    """A started TorchServe.

    Args:
        process: The watchdog; its exit is TorchServe's exit.
        group: Process group of Java and the workers.
        layout: Its files.
        ports: Where it listens.
    """

    def __init__(self, process: asyncio.subprocess.Process, group: int, layout: Layout, ports: Ports) -> None:
        self._process = process
        self._group = group
        self._layout = layout
        self._ports = ports

    @classmethod
    async def start(cls, layout: Layout, settings: Settings) -> Self:
        """Starts it on free ports; it does not listen yet.

        Raises:
            UnavailableError: A file cannot be written, or no process be started.
        """
        ports = free_ports()
        try:
            write_config(layout, ports, settings)
            process = await _start_watchdog(layout, environment(layout, settings.threads_of(Lane.EXPLANATIONS)))
        except OSError as error:
            raise UnavailableError(f"TorchServe could not be started: {error}") from error
        return cls(process, await _group_of(process), layout, ports)

    @property
    def grpc_address(self) -> str:
        """Where it answers inference calls."""
        return f"{LOOPBACK}:{self._ports.grpc_inference}"

    @property
    def inference_address(self) -> str:
        """Where it answers them by HTTP."""
        return f"{LOOPBACK}:{self._ports.inference}"

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    @property
    def keys(self) -> TorchServeKeys:
        """What it asks of its callers; there from when it listens."""
        return TorchServeKeys.of(self._layout)

    def management(self) -> Management:
        """A new client of its management API; only for one that listens."""
        return Management(f"http://{LOOPBACK}:{self._ports.management}", self.keys.management)

    async def listening(self, timeout_s: float) -> None:
        """Waits until it says that it listens: whatever answered on its ports before would be somebody else.

        Raises:
            UnavailableError: It ended or did not listen in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while _STARTED not in self._layout.java_log.read_text(encoding="utf-8", errors="replace"):
                    if self.ended:
                        raise UnavailableError("TorchServe ended while it started", reason="WORKER_STARTING")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise UnavailableError(f"TorchServe did not listen within {timeout_s:g} s") from None

    async def pause(self, seconds: float) -> None:
        """Waits, but not longer than TorchServe lives."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and kills it and its workers when it does not within the grace."""
        await self._command(b"t")
        await self.pause(grace_s)
        await self._command(b"k")
        await self.pause(_KILL_WAIT_S)
        if self._process.returncode is None or self._process.returncode < 0:
            _kill(self._process.pid, self._group)
            await self._process.wait()

    async def _command(self, letter: bytes) -> None:
        stdin = self._process.stdin
        if self.ended or stdin is None:
            return
        with contextlib.suppress(ConnectionError):
            stdin.write(letter)
            await stdin.drain()


async def _start_watchdog(layout: Layout, env: dict[str, str]) -> asyncio.subprocess.Process:
    with layout.java_log.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(watchdog.__file__)), str(layout.root), *command(layout)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=layout.root,
            env=env,
            start_new_session=True,
        )


async def _group_of(process: asyncio.subprocess.Process) -> int:
    """Reads the group that the watchdog prints; it prints none when the command cannot be started.

    A start that is cancelled here ends by itself: the watchdog's input closes with the last reference to it.
    """
    output = process.stdout
    line = await output.readline() if output is not None else b""
    if not line.strip().isdigit():
        await process.wait()
        raise UnavailableError("TorchServe could not be started; is its Java there?")
    return int(line)


def _kill(watchdog_pid: int, group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(watchdog_pid, signal.SIGKILL)
