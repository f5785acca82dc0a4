"""One TorchServe process with its workers, which end with the gateway."""

from __future__ import annotations

import asyncio
from typing import Self

from proponent.errors import UnavailableError
from proponent.gateway.hosting.watched_process import WatchedProcess
from proponent.gateway.lane import Lane
from proponent.gateway.settings import Settings
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

_POLL_S = 0.1
# Java prints this once all of its ports are its own.
_STARTED = "Model server started."


class TorchServe:
    """A started TorchServe.

    Args:
        process: Java with its workers.
        layout: Its files.
        ports: Where it listens.
    """

    def __init__(self, process: WatchedProcess, layout: Layout, ports: Ports) -> None:
        self._process = process
        self._layout = layout
        self._ports = ports

    @classmethod
    async def start(cls, layout: Layout, settings: Settings) -> Self:
        """Starts it on free ports; it does not listen yet.

        Raises:
            UnavailableError: A file cannot be written, or no process be started.
        """
        ports = free_ports()
        threads = settings.threads_of(Lane.EXPLANATIONS)
        try:
            layout.create()
            write_config(layout, ports, settings)
            with layout.java_log.open("wb") as log:
                process = await WatchedProcess.start(command(layout), layout.root, environment(layout, threads), log)
        except OSError as error:
            raise UnavailableError(f"TorchServe could not be started: {error}") from error
        return cls(process, layout, ports)

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
        return self._process.ended

    @property
    def keys(self) -> TorchServeKeys:
        """What it asks of its callers; there from when it listens."""
        return TorchServeKeys.of(self._layout)

    def management(self) -> Management:
        """A new client of its management API; only for one that listens."""
        return Management(f"{LOOPBACK}:{self._ports.management}", self.keys.management)

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
        await self._process.pause(seconds)

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and kills it and its workers when it does not within the grace."""
        await self._process.stop(grace_s)
