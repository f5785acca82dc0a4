"""Calls of many parts (items of a stream, instances of a batch): worked on side by side, admitted one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
Admitted = Callable[[], None]


async def map_concurrently(
    parts: AsyncIterator[Part], handle: Callable[[Part, Admitted], Awaitable[Result]], in_flight: int
) -> AsyncIterator[Result]:
    """Results as they come, at most ``in_flight`` of them unfinished or not yet taken by the caller.

    The next part is read only when the one before has its slot, which ``handle`` says by calling ``Admitted``, or its
    result: nobody holds more than one place in the line for slots.
    """
    finished: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    room, running = asyncio.Semaphore(in_flight), set[asyncio.Task[Any]]()
    feeding = asyncio.create_task(_feed(parts, handle, room, running, finished))
    feeding.add_done_callback(finished.put_nowait)
    try:
        while (task := await finished.get()) is not feeding:
            running.discard(task)
            yield task.result()
            room.release()
        feeding.result()
    finally:
        for task in (feeding, *running):
            task.cancel()
        await asyncio.gather(feeding, *running, return_exceptions=True)


async def map_in_order(
    count: int, handle: Callable[[int, Admitted | None], Awaitable[Result]], in_flight: int
) -> list[Result]:
    """The results for each position of a batch, in order; one that is alone does not wait for its slot."""
    if count == 1:
        return [await handle(0, None)]

    async def handled(position: int, admitted: Admitted) -> tuple[int, Result]:
        return position, await handle(position, admitted)

    found = dict([pair async for pair in map_concurrently(_positions(count), handled, in_flight)])
    return [found[position] for position in range(count)]


async def _positions(count: int) -> AsyncIterator[int]:
    for position in range(count):
        yield position


async def _feed(
    parts: AsyncIterator[Part],
    handle: Callable[[Part, Admitted], Awaitable[Result]],
    room: asyncio.Semaphore,
    running: set[asyncio.Task[Any]],
    finished: asyncio.Queue[asyncio.Task[Any]],
) -> None:
    """Starts on each part; ends when the last one is done."""
    await room.acquire()
    async for part in parts:
        admitted = asyncio.Event()
        task = asyncio.ensure_future(handle(part, admitted.set))
        running.add(task)
        task.add_done_callback(finished.put_nowait)
        task.add_done_callback(lambda _, admitted=admitted: admitted.set())  # type: ignore[misc]
        await admitted.wait()
        await room.acquire()
    await asyncio.gather(*running, return_exceptions=True)
