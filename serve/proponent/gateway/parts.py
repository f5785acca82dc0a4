"""Calls of many parts (items of a stream, instances of a batch): worked on side by side, placed one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Part = TypeVar("Part")
Answer = TypeVar("Answer")
Placed = Callable[[], None]


async def answer_parts(
    parts: AsyncIterator[Part], answer: Callable[[Part, Placed], Awaitable[Answer]], in_flight: int
) -> AsyncIterator[Answer]:
    """Answers as they come, at most ``in_flight`` of them unfinished or not yet taken by the caller.

    The next part is read only when the one before has its slot, which ``answer`` says by calling ``Placed``, or its
    answer: nobody holds more than one place in the line for slots.
    """
    finished: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    room, running = asyncio.Semaphore(in_flight), set[asyncio.Task[Any]]()
    feeding = asyncio.create_task(_feed(parts, answer, room, running, finished))
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


async def _feed(
    parts: AsyncIterator[Part],
    answer: Callable[[Part, Placed], Awaitable[Answer]],
    room: asyncio.Semaphore,
    running: set[asyncio.Task[Any]],
    finished: asyncio.Queue[asyncio.Task[Any]],
) -> None:
    """Starts an answer for each part; ends after the last answer."""
    await room.acquire()
    async for part in parts:
        placed = asyncio.Event()
        task = asyncio.ensure_future(answer(part, placed.set))
        running.add(task)
        task.add_done_callback(finished.put_nowait)
        task.add_done_callback(lambda _, placed=placed: placed.set())  # type: ignore[misc]
        await placed.wait()
        await room.acquire()
    await asyncio.gather(*running, return_exceptions=True)
