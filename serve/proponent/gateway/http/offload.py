"""Work of the processor that would hold the event loop: done in a process of its own.

Parsers written in C keep Python's global lock until they are done, so that another thread would not help: 30 MB of
numbers in JSON take 0.8 s.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from proponent.errors import UnavailableError

# What takes a few milliseconds at most.
INLINE_BYTES = 64 << 10
_PR_SET_PDEATHSIG = 1
P = ParamSpec("P")
T = TypeVar("T")


class Offload:
    """Runs functions here when they are small, else in one other process, which starts when first needed."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._starting = asyncio.Lock()

    async def run(self, size: int, function: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
        """The function's result; its arguments and errors must be picklable.

        Raises:
            UnavailableError: The other process died.
        """
        if size <= INLINE_BYTES:
            return function(*values, **named)
        try:
            async with self._starting:
                pool = self._pool = await self._running()
            return await asyncio.wrap_future(pool.submit(function, *values, **named))
        except BrokenProcessPool:
            self._pool = None
            raise UnavailableError("the process that reads large bodies died; it starts again") from None

    async def _running(self) -> ProcessPoolExecutor:
        return await asyncio.to_thread(_started) if self._pool is None else self._pool

    def close(self) -> None:
        """Ends the other process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _started() -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(os.getpid(),))
    pool.submit(os.getpid).result()
    return pool


def _begin(parent: int) -> None:
    """Leaves the terminal's signals to the parent, and dies with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
