"""What replies, metrics and traces say of time is measured once, and of the right block."""

from __future__ import annotations

import time

import pytest

from proponent.stages import Stopwatch, recording, stage


def test_stages_are_recorded_in_order_and_those_of_one_name_in_a_row_are_one() -> None:
    began = time.monotonic_ns()
    with recording() as stages:
        for name in ("forward", "lookup", "lookup", "forward"):
            with stage(name):
                time.sleep(0.002)
    assert [each.name for each in stages] == ["forward", "lookup", "forward"]
    assert all(each.seconds >= 0.002 for each in stages) and stages[1].seconds >= 0.004
    times = [began, *(t for each in stages for t in (each.start_ns, each.end_ns)), time.monotonic_ns()]
    assert times == sorted(times)


def test_a_block_that_fails_is_recorded_and_the_recorder_outside_holds_again() -> None:
    with recording() as outer:
        with pytest.raises(ValueError), recording() as inner, stage("search"):
            raise ValueError
        with stage("lookup"):
            pass
    with stage("nobody records this"):
        pass
    assert [each.name for each in inner] == ["search"] and [each.name for each in outer] == ["lookup"]


def test_a_stopwatch_adds_up_what_is_recorded_too() -> None:
    clock = Stopwatch()
    with recording() as stages:
        for name in ("a", "b", "a"):
            with clock.stage(name):
                pass
    assert list(clock.seconds) == ["a", "b"] and len(stages) == 3
    assert clock.seconds["a"] == pytest.approx(stages[0].seconds + stages[2].seconds)
