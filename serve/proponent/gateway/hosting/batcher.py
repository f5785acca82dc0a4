"""The requests that wait for the workers of a group, and how they become batches.

A worker that has nothing to do is sent what is there. Where the last batch had more requests, more are expected, and
it waits a moment for them: whoever asks alone never does. What comes while all workers have a batch waits for the
next one, which is sent ahead once it is full, so that a worker under load finds it when it is done.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from proponent.gateway.hosting.host import WorkerDefectError, WorkerGoneError, WorkerGroup
from proponent.gateway.settings import REPLY_BYTES

Post = Callable[[list[bytes]], Awaitable[list[bytes]]]
"""Has a batch answered by a worker: as many replies, in order. Cancelled where nobody waits for any of them."""
_LONGEST_S, _EVER_S = 0.5, 5.0
"""A batch that is not full waits no longer for workers to be done than twice the time of the last one, within these
bounds: its host may know better than this side whether they are there."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A request, where its reply goes, and since when it waits, in seconds of the monotonic clock."""

    request: bytes
    reply: asyncio.Future[bytes]
    since: float


class Batcher:
    """A line of requests.

    Args:
        post: Has a batch answered.
        workers: Batches that can be worked on at the same time.
        most: Requests of a batch.
        most_bytes: Bytes of the requests of a batch; one that is larger is a batch of its own.
        delay_s: How long one that has fewer requests than the last waits for more.
    """

    def __init__(self, post: Post, *, workers: int, most: int, most_bytes: int, delay_s: float) -> None:
        self._post = post
        self._workers, self._most, self._most_bytes, self._delay_s = workers, most, most_bytes, delay_s
        self._line: deque[_Waiting] = deque()
        self._bytes = 0
        self._under_way: set[asyncio.Future[list[bytes]]] = set()
        self._expected, self._free_since, self._took_s = 1, 0.0, 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """What a worker will reply; a request whose future is cancelled before it is sent is not sent.

        It may become a WorkerGoneError (it died with the request, or none is left), a WorkerDefectError, or whatever
        else ``post`` raises.
        """
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._line.append(_Waiting(request, reply, time.monotonic()))
        self._bytes += len(request)
        self._send_what_is_due()
        return reply

    def close(self) -> None:
        """Fails all that wait, and what is under way."""
        ended = WorkerGoneError("its workers were ended")
        for waiting in self._line:
            _fail(waiting, ended)
        self._line.clear()
        for sent in self._under_way:
            sent.cancel()

    def _send_what_is_due(self) -> None:
        while self._line and (seconds := self._due_in()) <= 0:
            self._send(self._next_batch())
        if self._timer is not None:
            self._timer.cancel()
        if not self._line:
            self._timer = None
            return
        whole = math.ceil(1e3 * seconds) / 1e3  # uvloop has milliseconds, and takes less than half of one for none
        self._timer = asyncio.get_running_loop().call_later(whole, self._send_what_is_due)

    def _due_in(self) -> float:
        """Seconds until those who wait are sent."""
        count, now, since = len(self._line), time.monotonic(), self._line[0].since
        full = count >= self._most or self._bytes >= self._most_bytes
        if len(self._under_way) < self._workers:
            return 0.0 if full or count >= self._expected else max(since, self._free_since) + self._delay_s - now
        longest = min(_EVER_S, max(_LONGEST_S, 2 * self._took_s))
        return 0.0 if full and len(self._under_way) < 2 * self._workers else since + longest - now

    def _next_batch(self) -> list[_Waiting]:
        """Takes the first of the line, without those who have left; may be none."""
        batch: list[_Waiting] = []
        room = self._most_bytes
        while self._line and len(batch) < self._most and (not batch or len(self._line[0].request) <= room):
            waiting = self._line.popleft()
            self._bytes -= len(waiting.request)
            if not waiting.reply.done():
                batch.append(waiting)
                room -= len(waiting.request)
        return batch

    def _send(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        self._expected = len(batch)
        try:
            sent = asyncio.ensure_future(self._post([waiting.request for waiting in batch]))
        except Exception as error:
            for waiting in batch:
                _fail(waiting, error)
            return
        self._under_way.add(sent)
        sent.add_done_callback(partial(self._answered, batch, time.monotonic()))
        for waiting in batch:
            waiting.reply.add_done_callback(partial(_give_up, batch, sent))

    def _answered(self, batch: list[_Waiting], sent_at: float, sent: asyncio.Future[list[bytes]]) -> None:
        self._under_way.discard(sent)
        self._free_since = time.monotonic()
        if not sent.cancelled():
            self._took_s = self._free_since - sent_at
        _hand_on(batch, sent)
        self._send_what_is_due()


def batcher_of(group: WorkerGroup, post: Post) -> Batcher:
    """The line before the workers of a group, as its settings say."""
    settings, lane = group.settings, group.lane
    return Batcher(
        post,
        workers=settings.workers_of(lane),
        most=settings.batch_size,
        most_bytes=settings.max_message_bytes,
        delay_s=settings.batch_delay_of(lane) / 1e3,
    )


def _hand_on(batch: list[_Waiting], sent: asyncio.Future[list[bytes]]) -> None:
    """Gives each of a batch what it got."""
    if sent.cancelled():
        error: BaseException | None = WorkerGoneError("its workers were ended")
    else:
        error = sent.exception()
    if error is None and len(sent.result()) != len(batch):
        error = WorkerDefectError(f"{len(sent.result())} replies came to {len(batch)} requests")
    for number, waiting in enumerate(batch):
        if error is not None:
            _fail(waiting, error)
        elif len(sent.result()[number]) > REPLY_BYTES:
            _fail(waiting, WorkerDefectError(f"the worker's reply has more than {REPLY_BYTES} bytes"))
        elif not waiting.reply.done():
            waiting.reply.set_result(sent.result()[number])


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.reply.done():
        waiting.reply.set_exception(error)


def _give_up(batch: list[_Waiting], sent: asyncio.Future[list[bytes]], _: asyncio.Future[bytes]) -> None:
    """Lets go of a batch for which nobody waits any longer."""
    if not sent.done() and all(waiting.reply.done() for waiting in batch):
        sent.cancel()
