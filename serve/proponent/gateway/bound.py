"""A bound on the time of a block: ``asyncio.timeout`` at a third of its cost, for what every call goes through."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Bound:
    """Cancels its task in the block when the time is over, and raises TimeoutError there.

    Like ``asyncio.timeout``, it leaves a cancellation by somebody else alone.

    Args:
        seconds: From when the block is entered.
    """

    __slots__ = ("_cancelling", "_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a bound needs a task that it can cancel"
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def shorten(self, seconds: float) -> None:
        """Lets the time be over that many seconds from now, if that is earlier."""
        loop = asyncio.get_running_loop()
        if not self._expired and loop.time() + seconds < self._timer.when():
            self._timer.cancel()
            self._timer = loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
