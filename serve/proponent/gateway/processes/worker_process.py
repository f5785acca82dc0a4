"""One life of a worker process: started, connected, asked batch after batch, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from proponent.bounds.frames import LENGTH, frame_size, pack, unpack
from proponent.gateway.hosting.host import WorkerDefectError, WorkerGoneError
from proponent.gateway.hosting.watched_process import WatchedProcess
from proponent.gateway.processes.batches import Batches, Pending
from proponent.gateway.settings import REPLY_BYTES

_STOP_GRACE_S = 1.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class WorkerProcess:
    """A worker process that was started.

    Args:
        process: It, with its watchdog.
        connected: Its connection, once it has loaded the model.
        timeout_s: How long it may take for a batch.

    Attributes:
        ready: Whether it takes batches.
        was_ready: Whether it ever did.
    """

    def __init__(self, process: WatchedProcess, connected: Awaitable[Connection], timeout_s: float) -> None:
        self._process = process
        self._connected = connected
        self._timeout_s = timeout_s
        self.ready = self.was_ready = False

    @property
    def pid(self) -> int:
        """Of the worker itself."""
        return self._process.group

    async def run(self, batches: Batches) -> None:
        """Answers batches until the process has died or must; then it is gone, whatever ends this."""
        answering = asyncio.create_task(self._answer(batches))
        dying = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({answering, dying}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ready = False
            for task in (answering, dying):
                task.cancel()
            await asyncio.gather(answering, dying, return_exceptions=True)
            await self._process.stop(_STOP_GRACE_S)

    async def _answer(self, batches: Batches) -> None:
        """Returns when the worker gave no answer that can be used."""
        reader, writer = await self._connected
        self.ready = self.was_ready = True
        try:
            while True:
                batch = await batches.take()
                if reader.at_eof() or reader.exception() is not None:  # it died while it had nothing to do
                    batches.put_back(batch)
                    return
                if not await self._answered(batch, reader, writer):
                    return
        finally:
            writer.close()

    async def _answered(
        self, batch: list[Pending], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the worker answered a batch; if not, it is of no use any more."""
        try:
            writer.write(pack([pending.request for pending in batch]))
            async with asyncio.timeout(self._timeout_s):
                replies = unpack(await _frame(reader))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            return _lost(batch, f"the worker gave no answer: {error!r}")
        except asyncio.CancelledError:
            _lost(batch, "the worker was ended")
            raise
        if len(replies) != len(batch):
            return _lost(batch, f"the worker gave {len(replies)} replies to {len(batch)} requests")
        for pending, reply in zip(batch, replies, strict=True):
            if len(reply) > REPLY_BYTES:
                pending.fail(WorkerDefectError(f"the worker's reply has more than {REPLY_BYTES} bytes"))
            else:
                pending.answer(reply)
        return True


def _lost(batch: list[Pending], why: str) -> bool:
    for pending in batch:
        pending.fail(WorkerGoneError(why))
    return False


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(frame_size(await reader.readexactly(LENGTH.size)))


class Arrivals:
    """Where worker processes connect; each says its name first."""

    def __init__(self) -> None:
        self._expected: dict[str, asyncio.Future[Connection]] = {}

    def expect(self, name: str) -> asyncio.Future[Connection]:
        """The connection of the worker with a name, once it comes."""
        arrival = self._expected[name] = asyncio.get_running_loop().create_future()
        arrival.add_done_callback(lambda _: self._expected.pop(name, None))
        return arrival

    async def arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a new connection; one that nobody expects is closed."""
        name = ""
        with suppress(OSError, asyncio.IncompleteReadError, ValueError):
            name = unpack(await _frame(reader))[0].decode()
        arrival = self._expected.get(name)
        if arrival is None or arrival.done():
            writer.close()
        else:
            arrival.set_result((reader, writer))


Launch = Callable[[str], Awaitable[WorkerProcess]]
"""Starts a worker process with a name of its own."""
