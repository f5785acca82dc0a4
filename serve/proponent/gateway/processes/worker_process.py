"""One life of a worker process: started, connected, asked batch after batch, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from proponent.bounds.frames import LENGTH, frame_size, pack, unpack
from proponent.gateway.hosting.host import WorkerGoneError
from proponent.gateway.hosting.watched_process import WatchedProcess

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
        self._connection: Connection | None = None
        self._failed = asyncio.Event()
        self.ready = self.was_ready = False

    @property
    def pid(self) -> int:
        """Of the worker itself."""
        return self._process.group

    async def run(self, idle: asyncio.Queue[WorkerProcess]) -> None:
        """Stands among those that are idle, once it is ready, until it has died or must; then it is gone."""
        starting = asyncio.create_task(self._become_ready(idle))
        dying, failing = asyncio.create_task(self._process.wait()), asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({dying, failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ready = False
            for task in (starting, dying, failing):
                task.cancel()
            if self._connection is not None:
                self._connection[1].close()
            await self._process.stop(_STOP_GRACE_S)

    async def _become_ready(self, idle: asyncio.Queue[WorkerProcess]) -> None:
        self._connection = await self._connected
        self.ready = self.was_ready = True
        idle.put_nowait(self)

    def is_there(self) -> bool:
        """Whether it still takes batches; it may have died while it had nothing to do."""
        if not self.ready or self._failed.is_set() or self._connection is None:
            return False
        reader = self._connection[0]
        return not reader.at_eof() and reader.exception() is None

    async def answer(self, batch: list[bytes]) -> list[bytes]:
        """The replies to a batch, in order.

        Raises:
            WorkerGoneError: It gave no answer that can be used, and is ended.
        """
        replies = await self._exchange(batch)
        if len(replies) != len(batch):
            self._failed.set()
            raise WorkerGoneError(f"the worker gave {len(replies)} replies to {len(batch)} requests")
        return replies

    async def _exchange(self, batch: list[bytes]) -> list[bytes]:
        assert self._connection is not None
        reader, writer = self._connection
        try:
            writer.write(pack(batch))
            async with asyncio.timeout(self._timeout_s):
                return unpack(await _frame(reader))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            self._failed.set()
            raise WorkerGoneError(f"the worker gave no answer: {error!r}") from error


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
