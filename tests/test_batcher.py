"""How requests become batches: nobody who asks alone waits, and who comes together is sent together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.gateway.hosting import batcher as module
from proponent.gateway.hosting.batcher import Batcher
from proponent.gateway.hosting.host import WorkerDefectError, WorkerGoneError


class Workers:
    """In the place of a host: answers a batch when it is let."""

    def __init__(self, *, workers: int = 1, most: int = 4, most_bytes: int = 1000, delay_s: float = 30.0) -> None:
        self.batches: list[list[bytes]] = []
        self.replies: list[asyncio.Future[list[bytes]]] = []
        self.batcher = Batcher(self.post, workers=workers, most=most, most_bytes=most_bytes, delay_s=delay_s)

    def post(self, batch: list[bytes]) -> asyncio.Future[list[bytes]]:
        self.batches.append(batch)
        self.replies.append(asyncio.get_running_loop().create_future())
        return self.replies[-1]

    def ask(self, *requests: str) -> list[asyncio.Future[bytes]]:
        return [self.batcher.ask(request.encode()) for request in requests]

    async def answer(self, number: int) -> None:
        self.replies[number].set_result([request.upper() for request in self.batches[number]])
        await passes()

    def sent(self) -> list[str]:
        return [b"".join(batch).decode() for batch in self.batches]


class Raising:
    """A host that cannot take anything."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, batch: list[bytes]) -> asyncio.Future[list[bytes]]:
        raise self._error


async def passes(seconds: float = 0.0) -> None:
    """Lets callbacks of callbacks run."""
    await asyncio.sleep(seconds)
    for _ in range(3):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(inside())


def test_who_asks_alone_does_not_wait_and_what_comes_meanwhile_is_sent_together() -> None:
    async def test() -> None:
        workers = Workers()
        first = workers.ask("a")
        assert workers.sent() == ["a"]
        others = workers.ask("b", "c")
        assert workers.sent() == ["a"]
        await workers.answer(0)
        assert workers.sent() == ["a", "bc"]
        await workers.answer(1)
        assert [await reply for reply in first + others] == [b"A", b"B", b"C"]

    run(test)


def test_where_more_are_expected_a_batch_waits_for_them_but_not_for_long() -> None:
    async def test() -> None:
        workers = Workers(delay_s=0.05)
        workers.ask("a")
        workers.ask("b", "c", "d")
        await workers.answer(0)
        await workers.answer(1)
        workers.ask("e", "f")
        assert workers.sent() == ["a", "bcd"]
        workers.ask("g")
        assert workers.sent() == ["a", "bcd", "efg"]
        await workers.answer(2)
        started = time.monotonic()
        workers.ask("h")
        while len(workers.sent()) < 4:
            await asyncio.sleep(0.001)
        assert 0.04 < time.monotonic() - started < 5 and workers.sent()[-1] == "h"
        await workers.answer(3)
        workers.ask("i")
        assert workers.sent()[-1] == "i"

    run(test)


def test_the_moment_begins_when_a_worker_is_free() -> None:
    """Those who were in the batch before come again then, and not while it is worked on."""

    async def test() -> None:
        workers = Workers(delay_s=0.2)
        workers.ask("a")
        workers.ask("b", "c", "d")
        await workers.answer(0)
        workers.ask("e")
        await passes(0.3)
        await workers.answer(1)
        workers.ask("f", "g")
        assert workers.sent() == ["a", "bcd", "efg"]

    run(test)


def test_a_full_batch_is_sent_ahead_and_one_that_is_not_waits() -> None:
    async def test() -> None:
        workers = Workers(most=2)
        workers.ask(*"abcdefg")
        assert workers.sent() == ["a", "bc"]
        await workers.answer(0)
        assert workers.sent() == ["a", "bc", "de"]
        await workers.answer(1)
        await workers.answer(2)
        assert workers.sent() == ["a", "bc", "de", "fg"]

    run(test)


def test_every_worker_gets_a_batch() -> None:
    async def test() -> None:
        workers = Workers(workers=3)
        workers.ask(*"abcd")
        assert workers.sent() == ["a", "b", "c"]

    run(test)


def test_a_batch_has_a_largest_size_in_bytes() -> None:
    async def test() -> None:
        workers = Workers(most_bytes=5)
        workers.ask("a", "bb", "bb", "cc", "dddddddd", "e")
        await workers.answer(0)
        await workers.answer(1)
        await workers.answer(2)
        await workers.answer(3)
        assert workers.sent() == ["a", "bbbb", "cc", "dddddddd", "e"]

    run(test)


def test_bytes_make_a_batch_full_and_leave_with_it() -> None:
    async def test() -> None:
        workers = Workers(most_bytes=5)
        workers.ask("a", "bbb", "ccc")
        assert workers.sent() == ["a", "bbb"]
        await workers.answer(0)
        await workers.answer(1)
        assert workers.sent() == ["a", "bbb", "ccc"]
        workers.ask("d")
        assert workers.sent()[-1] == "ccc", "it has room, and waits"

    run(test)


def test_a_host_is_asked_again_where_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have lost the batch, and then knows no worker that is busy."""
    monkeypatch.setattr(module, "_LONGEST_S", 0.05)

    async def test() -> None:
        workers = Workers()
        workers.ask("a", "b")
        await passes(0.2)
        assert workers.sent() == ["a", "b"]

    run(test)


def test_slow_workers_are_not_fed_crumbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a batch takes long goes together with the next one."""
    monkeypatch.setattr(module, "_LONGEST_S", 0.01)

    async def test() -> None:
        workers = Workers()
        workers.ask("a")
        await passes(0.1)
        await workers.answer(0)
        workers.ask("b", "c")
        await passes(0.1)
        assert workers.sent() == ["a", "b"]
        await workers.answer(1)
        assert workers.sent() == ["a", "b", "c"]

    run(test)


def test_no_timer_fires_again_and_again_while_a_moment_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvloop takes less than half a millisecond for none."""
    looked: list[float] = []

    async def test() -> None:
        workers = Workers(delay_s=0.001)
        due_in = workers.batcher._due_in
        monkeypatch.setattr(workers.batcher, "_due_in", lambda: looked.append(0) or due_in())
        workers.ask("a")
        workers.ask("b", "c", "d")
        await workers.answer(0)
        await workers.answer(1)
        workers.ask("e")
        time.sleep(0.00065)
        workers.ask("f")
        while len(workers.sent()) < 3:
            await asyncio.sleep(0.001)
        assert len(looked) < 20

    uvloop.run(test())


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError()])
def test_a_batch_that_cannot_be_posted_is_told_and_the_next_is(error: Exception) -> None:
    async def test() -> None:
        workers = Workers()
        post, workers.batcher._post = workers.batcher._post, Raising(error)
        [reply] = workers.ask("a")
        assert reply.exception() is error
        workers.batcher._post = post
        workers.ask("b")
        assert workers.sent() == ["b"]

    run(test)


def test_a_reply_over_the_limit_is_a_defect_of_its_own_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_BYTES", 5)

    async def test() -> None:
        workers = Workers()
        workers.ask("a")
        large, small = workers.ask("larger", "small")
        await workers.answer(0)
        await workers.answer(1)
        assert isinstance(large.exception(), WorkerDefectError) and await small == b"SMALL"

    run(test)


def test_who_has_left_is_not_sent_and_a_batch_that_nobody_waits_for_is_let_go() -> None:
    async def test() -> None:
        workers = Workers()
        first = workers.ask("a")
        gone, stays, leaves = workers.ask("g", "s", "l")
        gone.cancel()
        await workers.answer(0)
        assert workers.sent() == ["a", "sl"] and await first[0] == b"A"
        leaves.cancel()
        await passes()
        assert not workers.replies[1].cancelled()
        stays.cancel()
        await passes()
        assert workers.replies[1].cancelled()
        workers.ask("n", "o")
        assert workers.sent()[-1] == "no"

    run(test)


def test_what_goes_wrong_with_a_batch_is_told_to_each_of_it_and_the_next_is_sent() -> None:
    async def test() -> None:
        workers = Workers()
        workers.ask("a")
        lost = workers.ask("b", "c")
        await workers.answer(0)
        short = workers.ask("d", "e")
        workers.replies[1].set_exception(WorkerGoneError("died"))
        await passes()
        assert {str(reply.exception()) for reply in lost} == {"died"}
        workers.replies[2].set_result([b"one"])
        await passes()
        assert {type(reply.exception()) for reply in short} == {WorkerDefectError}
        assert workers.ask("f", "g") and workers.sent()[-1] == "fg"

    run(test)


def test_all_are_told_when_it_is_closed() -> None:
    async def test() -> None:
        workers = Workers()
        replies = workers.ask("a", "b")
        workers.batcher.close()
        for reply in replies:
            with pytest.raises(WorkerGoneError):
                await reply
        assert workers.replies[0].cancelled() and workers.sent() == ["a"]

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 3),
    st.integers(1, 5),
    st.data(),
)
def test_every_request_is_sent_once_in_order_within_the_bounds(
    sizes: Sequence[tuple[int, bool]], count: int, most: int, data: st.DataObject
) -> None:
    """Whenever the workers answer and whoever leaves."""

    async def test() -> None:
        workers = Workers(workers=count, most=most, most_bytes=100, delay_s=0.0)
        replies, answered = [], 0
        for number, (size, leaves) in enumerate(sizes):
            [reply] = workers.ask(f"{number:03}" + "x" * size)
            replies.append(reply)
            if leaves:
                reply.cancel()
            if answered < len(workers.batches) and data.draw(st.booleans()):
                with suppress(asyncio.InvalidStateError):  # everybody of the batch has left
                    await workers.answer(answered)
                answered += 1
            assert len([each for each in workers.replies if not each.done()]) <= 2 * count
        while answered < len(workers.batches):
            with suppress(asyncio.InvalidStateError):
                await workers.answer(answered)
            answered += 1
            await passes()
        sent = [request for batch in workers.batches for request in batch]
        assert sent == sorted(sent) and len(set(sent)) == len(sent)
        assert all(len(batch) <= most for batch in workers.batches)
        assert all(len(batch) == 1 or sum(map(len, batch)) <= 100 for batch in workers.batches)
        for reply, (size, leaves) in zip(replies, sizes, strict=True):
            assert reply.cancelled() if leaves else len(await reply) == size + 3

    asyncio.run(asyncio.wait_for(test(), 20))
