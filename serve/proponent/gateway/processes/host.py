"""Plain processes as a host of workers: the gateway starts them, hands them batches and starts them again.

Each has a watchdog of its own, by which it ends with the gateway. They connect to a socket in the private directory.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from proponent.errors import UnavailableError
from proponent.gateway.hosting.host import REFUSED, WorkerGoneError, WorkerGroup, WorkerStatus
from proponent.gateway.hosting.private import LIVENESS, TEMPORARY
from proponent.gateway.hosting.watched_process import WatchedProcess
from proponent.gateway.hosting.worker_settings import worker_environment, worker_section
from proponent.gateway.processes.pool import WorkerPool
from proponent.gateway.processes.rotating_log import RotatingLog
from proponent.gateway.processes.worker_process import Arrivals, WorkerProcess
from proponent.gateway.settings import Settings

_SOCKET = "workers.sock"
_BUFFER = 1 << 20


@asynccontextmanager
async def process_host(root: Path, settings: Settings) -> AsyncIterator[ProcessHost]:
    """A host of worker processes, for the length of a block; it needs nothing of the settings itself.

    Raises:
        UnavailableError: A file cannot be written.
    """
    temporary, arrivals = root / TEMPORARY, Arrivals()
    try:
        temporary.mkdir(exist_ok=True)
        log = RotatingLog(root / "worker.log")
        server = await asyncio.start_unix_server(arrivals.arrived, temporary / _SOCKET, limit=_BUFFER)
    except OSError as error:
        raise UnavailableError(f"worker processes cannot be hosted: {error}") from error
    host = ProcessHost(root, arrivals, log)
    try:
        yield host
    finally:
        server.close()
        await host.close()
        log.close()


class ProcessHost:
    """Pools of worker processes, by the names of their groups."""

    def __init__(self, root: Path, arrivals: Arrivals, log: RotatingLog) -> None:
        self._root = root
        self._arrivals = arrivals
        self._log = log
        self._pools: dict[tuple[str, str], WorkerPool] = {}
        self._copying: set[asyncio.Task[None]] = set()
        self.ended = False

    async def pause(self, seconds: float) -> None:
        """Waits; the host lives as long as the gateway."""
        await asyncio.sleep(seconds)

    async def register(self, group: WorkerGroup) -> None:
        """Starts the processes of a group."""
        key = (group.name, group.version)
        if key in self._pools:
            raise UnavailableError(f"{group.name} {group.version} is registered already", reason=REFUSED)
        self._pools[key] = WorkerPool(group, partial(self._launch, group))

    async def unregister(self, group: WorkerGroup) -> None:
        """Ends the processes of a group."""
        pool = self._pool(group)
        del self._pools[group.name, group.version]  # who asks from now on is told
        await pool.close()

    async def workers(self, group: WorkerGroup) -> list[WorkerStatus]:
        """The processes of a group."""
        return self._pool(group).statuses

    def ask(self, name: str, version: str, request: bytes) -> asyncio.Future[bytes]:
        """What a process of a group will reply."""
        pool = self._pools.get((name, version))
        if pool is None:
            raise WorkerGoneError(f"{name} {version} is not registered")
        return pool.ask(request)

    async def close(self) -> None:
        """Ends all processes."""
        self.ended = True
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await asyncio.gather(*self._copying)

    def _pool(self, group: WorkerGroup) -> WorkerPool:
        pool = self._pools.get((group.name, group.version))
        if pool is None:
            raise UnavailableError(f"{group.name} {group.version} is not registered", reason=REFUSED)
        return pool

    async def _launch(self, group: WorkerGroup, name: str) -> WorkerProcess:
        settings = group.settings
        section = worker_section(settings, group.lane, group.bundle, group.weights, self._root / LIVENESS)
        socket = self._root / TEMPORARY / _SOCKET
        command = (sys.executable, "-m", "proponent.worker.process", str(socket), name, json.dumps(section))
        connected = self._arrivals.expect(name)
        process = await WatchedProcess.start(command, self._root, self._environment(group), asyncio.subprocess.PIPE)
        if process.output is not None:
            copying = asyncio.create_task(self._log.take(process.output))
            self._copying.add(copying)
            copying.add_done_callback(self._copying.discard)
        return WorkerProcess(process, connected, settings.worker_timeout)

    def _environment(self, group: WorkerGroup) -> Mapping[str, str]:
        return worker_environment(self._root / TEMPORARY, group.settings.threads_of(group.lane))
