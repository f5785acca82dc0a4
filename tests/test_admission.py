"""The line before the workers: bounded, in turn between callers, and as long as the workers are fast."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proponent.errors import DeadlineError, OverloadedError
from proponent.gateway.error_mapping import retry_after
from proponent.gateway.lane import Lane
from proponent.gateway.limits import admission as admission_room
from proponent.gateway.limits.adaptive_limit import AdaptiveLimit
from proponent.gateway.limits.admission import Admission, LaneAdmission, Slot
from proponent.gateway.metrics import Metrics
from proponent.gateway.settings import Settings

EACH, BATCH = 0.01, 16
"""Seconds of work for one request of a simulated worker, and its largest batch."""


def settings(**given: Any) -> Settings:
    return Settings(store=Path(), **{"max_explanations": 2, **given})


def line(metrics: Metrics | None = None, **given: Any) -> LaneAdmission:
    return LaneAdmission("toy", Lane.EXPLANATIONS, settings(**given), metrics or Metrics())


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(inside())


class Callers:
    """Calls of several callers, and in which order they were let in."""

    def __init__(self, admission: LaneAdmission) -> None:
        self.admission = admission
        self.order: list[str] = []
        self.slots: list[Slot] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *callers: str, part: bool = False, wait_s: float = 10) -> None:
        for caller in callers:
            self.tasks.append(asyncio.create_task(self._call(caller, part, wait_s)))
        await asyncio.sleep(0.01)

    async def serve_all(self) -> list[str]:
        """Ends what is worked on, one after the other, until nobody waits."""
        while self.slots:
            self.slots.pop(0).release()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.order

    async def _call(self, caller: str, part: bool, wait_s: float) -> None:
        self.slots.append(await self.admission.slot(caller, wait_s, part=part))
        self.order.append(f"{caller}*" if part else caller)

    def errors(self) -> list[BaseException]:
        return [error for task in self.tasks if task.done() and (error := task.exception())]


def test_callers_take_turns_and_each_keeps_its_own_order() -> None:
    async def test() -> None:
        callers = Callers(line())
        await callers.come(*("flood" for _ in range(8)), "a", "b", "a")
        assert await callers.serve_all() == ["flood", "flood", "flood", "a", "b", "flood", "a", *["flood"] * 4]

    run(test)


def test_one_caller_alone_has_all_places() -> None:
    async def test() -> None:
        callers = Callers(line(max_explanations=5))
        await callers.come(*["alone"] * 7)
        assert callers.order == ["alone"] * 5 and callers.admission.taken == 5
        assert len(await callers.serve_all()) == 7 and callers.admission.taken == 0

    run(test)


def test_a_full_line_refuses_who_holds_most_of_it() -> None:
    metrics = Metrics()

    async def test() -> None:
        callers = Callers(line(metrics, max_waiting=4))
        await callers.come(*["flood"] * 6)
        assert not callers.errors() and b'waiting{lane="explanations",model="toy"} 4.0' in metrics.exposition()[0]
        await callers.come("flood", "quiet", "quiet", "quiet")
        refused = callers.errors()
        assert len(refused) == 4 and all(isinstance(error, OverloadedError) for error in refused)
        assert Counter(await callers.serve_all()) == {"flood": 4, "quiet": 2}

    run(test)
    assert b'proponent_requests_refused_total{lane="explanations",model="toy"} 4.0' in metrics.exposition()[0]


def test_the_line_is_as_long_as_the_workers_answer_in_time_and_says_when_to_come_again() -> None:
    async def test() -> None:
        callers = Callers(line(max_wait=10))
        await callers.come("a", "b")
        callers.admission.limit.seconds = 4.0  # of each of the two: one is done every 2 s
        await callers.come(*["a"] * 6)
        [error] = callers.errors()
        assert isinstance(error, OverloadedError) and retry_after(error) == 10
        callers.admission.limit.seconds = 1000.0
        await callers.serve_all()
        await callers.come("a", "a", "a")
        assert len(callers.errors()) == 1  # one may always wait
        await callers.serve_all()

    run(test)


def test_parts_wait_without_being_refused_and_leave_half_of_the_places() -> None:
    async def test() -> None:
        callers = Callers(line(max_explanations=4, max_waiting=1))
        await callers.come(*["a"] * 9, part=True)
        assert callers.order == ["a*", "a*"] and not callers.errors()
        await callers.come("a", "a", "a")
        assert callers.order == ["a*", "a*", "a", "a"]
        assert Counter(await callers.serve_all()) == {"a*": 9, "a": 3}

    run(test)


def test_calls_and_parts_of_one_caller_take_turns() -> None:
    async def test() -> None:
        callers = Callers(line())
        await callers.come("a", "b")
        for part in (True, False):
            await callers.come(*["a"] * 3, part=part)
        found = await callers.serve_all()
        assert found[2:] == ["a*", "a", "a*", "a", "a*", "a"] or found[2:] == ["a", "a*", "a", "a*", "a", "a*"]

    run(test)


@pytest.mark.parametrize("part", [True, False])
def test_whoever_leaves_the_line_loses_nobodys_place(part: bool) -> None:
    async def test() -> None:
        callers = Callers(line())
        await callers.come("a", "b")
        await callers.come("late", part=part, wait_s=0.01)
        await callers.come("left", "stays", part=part)
        callers.tasks[3].cancel()
        await asyncio.sleep(0.03)
        [error] = [task.exception() for task in callers.tasks[2:3]]
        assert isinstance(error, DeadlineError)
        # One who is let in and leaves at the same moment gives the place back.
        callers.slots.pop(0).release()
        callers.tasks[4].cancel()
        await asyncio.sleep(0.01)
        assert callers.admission.taken == 1 and not callers.admission._queue
        await callers.come("next")
        assert callers.order == ["a", "b", "next"]
        await callers.serve_all()
        assert callers.admission.taken == callers.admission._parts == 0

    run(test)


class SimulatedWorker:
    """A worker that takes what waits as one batch, up to ``BATCH``, beside callers that send as much as they may."""

    def __init__(self, fixed_s: float, each_s: float, most: int = 1000) -> None:
        self.limit = AdaptiveLimit(32, most, 0.1)
        self.fixed_s, self.each_s = fixed_s, each_s
        self.waits: list[float] = []
        self.answered = 0
        self._now = 0.0
        self._queue: list[float] = []

    def run(self, batches: int) -> SimulatedWorker:
        for _ in range(batches):
            self._queue += [self._now] * (self.limit.value - len(self._queue))
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            begun, self._now = self._now, self._now + self.fixed_s + self.each_s * len(batch)
            in_flight = len(batch) + len(self._queue)
            for sent in batch:
                self.limit.observe(sent, begun, self._now, used_up=in_flight >= self.limit.value)
                self.waits.append(begun - sent)
            self.answered += len(batch)
        return self


@pytest.mark.parametrize(
    ("fixed_s", "each_s"), [(0.001, 0.0005), (0.02, 0.01), (0.0, 1.0)], ids=["fast", "slow", "very slow"]
)
def test_waits_at_the_workers_stay_short_and_batches_full(fixed_s: float, each_s: float) -> None:
    worker = SimulatedWorker(fixed_s, each_s).run(600)
    settled = worker.waits[len(worker.waits) // 2 :]
    batch_s = fixed_s + each_s * BATCH
    assert max(settled) <= 2.2 * max(0.1, batch_s)
    assert worker.limit.value >= BATCH


def test_the_limit_follows_the_workers_down_and_up_and_is_never_below_one() -> None:
    worker = SimulatedWorker(0.0, 0.0005).run(2000)
    fast = worker.limit.value
    worker.each_s = 0.05
    worker.run(300)
    assert BATCH <= worker.limit.value < fast / 2
    worker.each_s = 0.0005
    assert worker.run(2000).limit.value > 0.8 * fast


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans()), max_size=200), st.integers(1, 50))
def test_the_limit_stays_within_its_bounds(seen: list[tuple[float, float, bool]], most: int) -> None:
    limit, now = AdaptiveLimit(8, most, 0.1), 0.0
    for wait_s, work_s, used_up in seen:
        now += wait_s + work_s
        limit.observe(now - wait_s - work_s, now - work_s, now, used_up=used_up)
        assert 1 <= limit.value <= most


def test_a_limit_that_is_not_used_up_does_not_grow() -> None:
    limit = AdaptiveLimit(4, 100, 0.1)
    for now in range(100):
        limit.observe(now, now, now + 0.01, used_up=False)
    assert limit.value == 4 and limit.seconds == pytest.approx(0.01)


def test_a_place_that_comes_free_as_a_caller_leaves_goes_to_the_next_and_is_not_lost() -> None:
    """Who is cancelled runs a moment later; until then the line still holds it."""

    async def test() -> None:
        callers = Callers(line(max_explanations=1))
        await callers.come("a", "b", "c")
        callers.tasks[1].cancel()
        callers.slots.pop(0).release()
        await asyncio.sleep(0.01)
        assert callers.order == ["a", "c"] and callers.admission.taken == 1
        await callers.serve_all()
        assert callers.admission.taken == 0

    run(test)


def test_a_caller_who_has_just_left_is_refused_in_nobodys_place() -> None:
    async def test() -> None:
        callers = Callers(line(max_explanations=1, max_waiting=2))
        await callers.come("a", "a", "a")
        callers.tasks.append(asyncio.create_task(callers._call("b", False, 10)))
        callers.tasks[2].cancel()
        await asyncio.sleep(0.01)
        assert await callers.serve_all() == ["a", "a", "b"] and callers.tasks[-1].exception() is None

    run(test)


def test_explanations_are_given_little_at_a_time_while_predictions_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_room, "_LULL_S", math.inf)

    async def test() -> None:
        made = settings(max_explanations=100, batch_size=16)
        admission = Admission(made, Metrics())
        predictions, explanations = (admission.of("toy", lane) for lane in Lane)
        callers = Callers(explanations)
        (await predictions.slot("p", 1.0, part=False)).release()
        await callers.come(*"abcdefgh")
        assert callers.order == list("ab")
        callers.slots.pop(0).release()
        await asyncio.sleep(0.01)
        assert callers.order == list("abc")
        monkeypatch.setattr(admission_room, "_LULL_S", 0.0)
        callers.slots.pop(0).release()
        await asyncio.sleep(0.01)
        assert callers.order == list("abcdefgh")
        await predictions.slot("p", 1.0, part=False)
        await callers.come("x", "y")
        assert callers.order == list("abcdefgh"), "more than that is there"
        assert sorted(await callers.serve_all()) == sorted("abcdefghxy")

    run(test)


def test_nobody_gives_way_where_all_stand_in_one_line() -> None:
    async def test() -> None:
        admission = Admission(settings(max_explanations=100, batch_size=4, prediction_workers=0), Metrics())
        assert admission.of("toy", Lane.PREDICTIONS) is admission.of("toy", Lane.EXPLANATIONS)
        callers = Callers(admission.of("toy", Lane.PREDICTIONS))
        await callers.come(*"abcdefgh")
        assert callers.order == list("abcdefgh")
        await callers.serve_all()

    run(test)
