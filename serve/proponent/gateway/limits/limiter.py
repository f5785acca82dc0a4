"""Bounds the calls in flight, method by method, so that TorchServe's queue never fills."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from proponent.errors import DeadlineError, OverloadedError
from proponent.gateway.metrics import Metrics


class Limiter:
    """Counts calls in flight.

    A call over its method's limit is refused at once. A part of a larger call (an item of a stream, an instance of
    a batch) waits in line instead; parts together take at most half of the slots, so that single calls find room
    beside any number of streams.
    """

    def __init__(self, limits: Mapping[str, int], metrics: Metrics) -> None:
        self._limits = dict(limits)
        self._counts: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._metrics = metrics
        for method, limit in self._limits.items():
            metrics.limit.labels(method).set(limit)
            metrics.in_flight.labels(method).set(0)
            metrics.waiting.labels(method).set_function(partial(self._count_waiting, method))

    @contextmanager
    def slot(self, method: str) -> Iterator[None]:
        """Holds one of the method's slots.

        Raises:
            OverloadedError: All are taken.
        """
        limit = self._limits[method]
        if self._counts[method] >= limit:
            raise OverloadedError(f"{limit} {method} calls are in flight, the most this server takes; try again")
        self._change(method, 1)
        try:
            yield
        finally:
            self._change(method, -1)
            self._admit_next(method)

    @asynccontextmanager
    async def wait_for_slot(self, method: str, wait_s: float) -> AsyncIterator[None]:
        """Waits in line, then holds one of the slots that parts of larger calls may take.

        Raises:
            DeadlineError: It did not come within ``wait_s`` seconds.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._wait(method)
        except TimeoutError:
            raise DeadlineError(f"no {method} slot became free within {wait_s:.3g} s") from None
        try:
            yield
        finally:
            self._release_part(method)

    async def _wait(self, method: str) -> None:
        admitted = asyncio.get_running_loop().create_future()
        self._waiting[method].append(admitted)
        self._admit_next(method)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._waiting[method].remove(admitted)
            else:
                self._release_part(method)
            raise

    def _admit_next(self, method: str) -> None:
        waiting, limit = self._waiting[method], self._limits[method]
        while waiting and self._counts[method] < limit and self._parts[method] < max(1, limit // 2):
            self._parts[method] += 1
            self._change(method, 1)
            waiting.popleft().set_result(None)

    def _release_part(self, method: str) -> None:
        self._parts[method] -= 1
        self._change(method, -1)
        self._admit_next(method)

    def _count_waiting(self, method: str) -> int:
        return len(self._waiting[method])

    def _change(self, method: str, by: int) -> None:
        self._counts[method] += by
        self._metrics.in_flight.labels(method).set(self._counts[method])
