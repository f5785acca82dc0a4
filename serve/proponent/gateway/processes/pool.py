"""The worker processes of one group: as many as were asked for, and another one for each that dies."""

from __future__ import annotations

import asyncio
import time

import structlog

from proponent.errors import ProponentError
from proponent.gateway.hosting.batcher import batcher_of
from proponent.gateway.hosting.host import WorkerGroup, WorkerStatus
from proponent.gateway.processes.worker_process import Launch, WorkerProcess

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_log = structlog.get_logger("proponent.gateway")


class WorkerPool:
    """The processes of a group, which start at once, and the requests that wait for them.

    Args:
        group: What they load, and how many they are.
        launch: Starts one.
    """

    def __init__(self, group: WorkerGroup, launch: Launch) -> None:
        settings, self._group, self._launch = group.settings, group, launch
        self._batcher = batcher_of(group, self._post)
        self._idle = asyncio.Queue[WorkerProcess]()
        self._answering: set[asyncio.Task[list[bytes]]] = set()
        self._workers: dict[int, WorkerProcess | None] = dict.fromkeys(range(settings.workers_of(group.lane)))
        self._lives = [asyncio.create_task(self._keep_running(number)) for number in self._workers]

    @property
    def statuses(self) -> list[WorkerStatus]:
        """The workers by now."""
        return [
            WorkerStatus(str(number), -1, "WAITING")
            if worker is None
            else WorkerStatus(str(number), worker.pid, "READY" if worker.ready else "STARTING")
            for number, worker in self._workers.items()
        ]

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """What a worker will reply, see ``Batcher.ask``."""
        return self._batcher.ask(request)

    async def close(self) -> None:
        """Ends the processes and fails what waits for them."""
        self._batcher.close()
        ending = (*self._lives, *self._answering)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _post(self, batch: list[bytes]) -> asyncio.Future[list[bytes]]:
        """The replies to a batch; a process goes on with what it has begun, whether or not somebody waits."""
        answering = asyncio.create_task(self._answered(batch))
        self._answering.add(answering)
        answering.add_done_callback(self._ended)
        return asyncio.shield(answering)

    def _ended(self, answering: asyncio.Task[list[bytes]]) -> None:
        self._answering.discard(answering)
        if not answering.cancelled():
            answering.exception()  # which nobody may have waited for

    async def _answered(self, batch: list[bytes]) -> list[bytes]:
        worker = await self._idle.get()
        while not worker.is_there():
            worker = await self._idle.get()
        try:
            return await worker.answer(batch)
        finally:
            if worker.is_there():
                self._idle.put_nowait(worker)

    async def _keep_running(self, number: int) -> None:
        """One life of a worker after another; those that never were ready come ever more rarely."""
        life, delay = 0, _FIRST_DELAY_S
        while True:
            life += 1
            was_ready = await self._live(number, f"{self._group.name}-{self._group.version}-{number}-{life}")
            delay = _FIRST_DELAY_S if was_ready else min(2 * delay, _LONGEST_DELAY_S)
            await asyncio.sleep(delay)

    async def _live(self, number: int, name: str) -> bool:
        """One life; whether the worker was ready in it."""
        started = time.monotonic()
        try:
            worker = self._workers[number] = await self._launch(name)
        except ProponentError as error:
            _log.error("worker not started", worker=name, why=error.message)
            return False
        try:
            await worker.run(self._idle)
            _log.warning("worker ended", worker=name, pid=worker.pid, lived_s=round(time.monotonic() - started, 1))
            return worker.was_ready
        finally:
            self._workers[number] = None
