"""Who is sent to the workers, and when: a bounded line before each lane of each model.

What the workers can take is sent at once. What comes beyond that waits, callers in turn; what would have to wait too
long is refused, and told when to come again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proponent.errors import DeadlineError, OverloadedError
from proponent.gateway.auth import Caller
from proponent.gateway.bound import Bound
from proponent.gateway.lane import Lane
from proponent.gateway.limits.adaptive_limit import AdaptiveLimit
from proponent.gateway.limits.fair_queue import FairQueue, Ticket
from proponent.gateway.metrics import Metrics
from proponent.gateway.settings import Settings

_LULL_S = 0.02
"""A line from which nothing is at the workers, and nothing came for this long, is not in use."""


class Slot:
    """A place at a lane's workers; held until they are done with its request, which may be after its call ended."""

    def __init__(self, admission: LaneAdmission, *, part: bool) -> None:
        self._admission = admission
        self._part = part
        self._sent_at = time.monotonic()

    def observe(self, begun_ns: int) -> None:
        """Learns from a reply when a worker began with its request, by the machine's monotonic clock; 0: unknown."""
        if begun_ns:
            self._admission.observe(self._sent_at, begun_ns / 1e9)

    def release(self) -> None:
        """Gives the place to the next in line."""
        self._admission.release(part=self._part)


class Held:
    """What is held for a request until the workers are done with it; let go then, the last first.

    Args:
        observe: Told of the reply when a worker began with the request, see ``Slot.observe``.
    """

    def __init__(self, observe: Callable[[int], None] = lambda _: None) -> None:
        self.observe = observe
        self._ends: list[Callable[[], None]] = []

    def callback(self, end: Callable[[], None]) -> None:
        """Lets something go by a call when this is closed."""
        self._ends.append(end)

    def close(self) -> None:
        """Lets all go, once, whatever one of them raises."""
        if self._ends:
            try:
                self._ends.pop()()
            finally:
                self.close()


class LaneAdmission:
    """The line before one lane of one model.

    A part of a larger call (an item of a stream, an instance of a batch) is never refused: its call waits with the
    next one. Parts together take at most half of the places, so that single calls find room beside any number of
    streams.

    Args:
        model: Its name.
        lane: Before whose workers.
        settings: Of the model.
        metrics: Where the limit is shown.
        first: The line that goes first: while requests come there, the workers here are given an eighth
            of a batch at a time.

    Attributes:
        limit: Requests that may be at the workers.
        taken: Requests that are there.
    """

    def __init__(
        self, model: str, lane: Lane, settings: Settings, metrics: Metrics, first: LaneAdmission | None = None
    ) -> None:
        most = settings.max_predictions if lane is Lane.PREDICTIONS else settings.max_explanations
        batches = 2 * settings.batch_size * settings.workers_of(lane)  # one is computed, the next one fills
        self.limit = AdaptiveLimit(batches, most, settings.worker_wait_target)
        self.taken = 0
        self._taken_at = -_LULL_S
        self._first, self._beside = first, max(1, batches // 16)
        self._parts = 0
        self._queue = FairQueue()
        self._most_waiting, self._longest_s = settings.max_waiting, settings.max_wait
        self._name = f"{lane.value} of model {model!r}"
        labels = (model, lane.value)
        self._shown = metrics.limit.labels(*labels)
        self._refused = metrics.refused.labels(*labels)
        metrics.waiting.labels(*labels).set_function(lambda: len(self._queue))
        self._shown.set(self.limit.value)

    async def slot(self, caller: str, wait_s: float, *, part: bool) -> Slot:
        """A place, at once or when it is the caller's turn.

        Raises:
            OverloadedError: The line is too long, now or because others came who had fewer places in it.
            DeadlineError: The turn did not come within ``wait_s`` seconds.
        """
        if self._queue or not self._has_room(part=part):
            await self._wait(Ticket(caller, part, asyncio.get_running_loop().create_future()), wait_s)
        else:
            self._take(part=part)
        return Slot(self, part=part)

    def observe(self, sent_at: float, begun_at: float) -> None:
        """Learns from a request that the workers are done with."""
        now = time.monotonic()
        self.limit.observe(sent_at, begun_at, now, used_up=self.taken >= self.limit.value)
        self._shown.set(self.limit.value)

    def release(self, *, part: bool) -> None:
        """Takes a place back."""
        self.taken -= 1
        self._parts -= part
        self._admit()

    def _take(self, *, part: bool) -> None:
        self.taken += 1
        self._taken_at = time.monotonic()
        self._parts += part

    def _is_in_use(self) -> bool:
        return self.taken > 0 or time.monotonic() - self._taken_at < _LULL_S

    def _places(self) -> int:
        """Requests that may be at the workers now."""
        gives_way = self._first is not None and self._first._is_in_use()
        return min(self.limit.value, self._beside) if gives_way else self.limit.value

    def _has_room(self, *, part: bool) -> bool:
        limit = self._places()
        return self.taken < limit and not (part and self._parts >= max(1, limit // 2))

    def _admit(self) -> None:
        while self._has_room(part=False):
            ticket = self._queue.take(parts=self._has_room(part=True))
            if ticket is None:
                return
            if not ticket.admitted.cancelled():  # by a caller who left just now, and has not run since
                self._take(part=ticket.part)
                ticket.admitted.set_result(None)

    async def _wait(self, ticket: Ticket, wait_s: float) -> None:
        if not ticket.part and not self._has_room(part=False):
            self._make_room(ticket.caller)
        self._queue.add(ticket)
        self._admit()
        try:
            with Bound(wait_s):
                await ticket.admitted
        except TimeoutError:
            self._leave(ticket)
            raise DeadlineError(f"the turn among the {self._name} did not come within {wait_s:.3g} s") from None
        except asyncio.CancelledError:
            self._leave(ticket)
            raise

    def _leave(self, ticket: Ticket) -> None:
        """Of one who waits no longer: the place in line, or the one at the workers that was given meanwhile."""
        if ticket.admitted.cancelled():
            self._queue.remove(ticket)
        elif ticket.admitted.exception() is None:
            self.release(part=ticket.part)

    def _make_room(self, caller: str) -> None:
        """Refuses somebody where the line is full: the newest call of who has most in it."""
        if self._queue.calls < self._room():
            return
        error = self._overloaded()
        self._refused.inc()
        other = self._queue.last_of_longest(caller)
        if other is None:
            raise error
        self._queue.remove(other)
        if not other.admitted.cancelled():
            other.admitted.set_exception(error)

    def _room(self) -> int:
        """Calls that may wait: so many as the workers answer in the longest time, one at least."""
        if not self.limit.seconds:
            return self._most_waiting
        answered = self._longest_s * self._places() / self.limit.seconds
        return min(self._most_waiting, max(1, int(answered)))

    def _overloaded(self) -> OverloadedError:
        seconds = self._queue.calls * self.limit.seconds / self._places()
        return OverloadedError(
            f"{self.taken} {self._name} are worked on and {self._queue.calls} wait, the most this server takes; "
            "try again",
            retry_after_s=max(1.0, seconds),
        )


class Admission:
    """The lines of all models, and the places of open streams."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lanes: dict[tuple[str, Lane], LaneAdmission] = {}
        self._streams = Counter[str]()

    def of(self, model: str, lane: Lane) -> LaneAdmission:
        """The line before a lane of a model."""
        return self._lanes.get((model, lane)) or self._made(model, lane)

    def _made(self, model: str, lane: Lane) -> LaneAdmission:
        """A new line; that of explanations where a lane has no workers of its own."""
        settings = self._settings.of(model)
        if lane not in settings.lanes:
            found = self.of(model, Lane.EXPLANATIONS)
        else:
            first = (
                self.of(model, Lane.PREDICTIONS) if lane is Lane.EXPLANATIONS and len(settings.lanes) > 1 else None
            )
            found = LaneAdmission(model, lane, settings, self._metrics, first)
        self._lanes[model, lane] = found
        return found

    def forget(self, model: str) -> None:
        """Drops the lines of a model that nobody uses any more."""
        for lane in Lane:
            self._lanes.pop((model, lane), None)

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """Holds a place among the open streams, of which a caller that is known by a credential gets half.

        Raises:
            OverloadedError: All are taken, or the caller's.
        """
        most, name = self._settings.max_streams, caller.name
        own = (most + 1) // 2 if caller.credential else most
        if self._streams.total() >= most:
            raise OverloadedError(f"{most} streams are open, the most this server takes; try again")
        if self._streams[name] >= own:
            raise OverloadedError(f"{own} streams of caller {name!r} are open, the most of one; try again")
        self._streams[name] += 1
        try:
            yield
        finally:
            self._streams[name] -= 1
            self._streams += Counter()  # keeps those above zero
