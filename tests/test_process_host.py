"""Plain processes as a host: whole batches, workers that come back, nothing left of those that end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proponent.bounds.frames import LENGTH, pack, unpack
from proponent.errors import UnavailableError
from proponent.gateway.hosting.host import REFUSED, WorkerGoneError, WorkerGroup
from proponent.gateway.hosting.watched_process import WatchedProcess
from proponent.gateway.lane import Lane
from proponent.gateway.processes import host as host_module
from proponent.gateway.processes import pool as pool_module
from proponent.gateway.processes.host import ProcessHost, process_host
from proponent.gateway.processes.rotating_log import RotatingLog
from proponent.gateway.settings import Settings

# A worker without a model: says who it is and how large the batch was, and does what it is told.
WORKER = """
import os, socket, sys, time
from proponent.bounds.frames import LENGTH, frame_size, pack, unpack
path, name, _ = sys.argv[1:]
print("started", name, flush=True)
if os.environ.get("STILLBORN"):
    os._exit(3)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    connection.sendall(pack([name.encode()]))
    file = connection.makefile("rb")
    while head := file.read(LENGTH.size):
        requests = unpack(file.read(frame_size(head)))
        if b"die" in requests:
            os._exit(1)
        if b"hang" in requests:
            time.sleep(60)
        if b"few" in requests:
            requests = []
        replies = [b"%s of %d by %d" % (request, len(requests), os.getpid()) for request in requests]
        connection.sendall(pack(replies))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes that answer at once in place of those that load a model."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    started = WatchedProcess.start

    async def start(command: tuple[str, ...], *others: object) -> WatchedProcess:
        return await started((sys.executable, str(script), *command[3:]), *others)  # type: ignore[arg-type]

    monkeypatch.setattr(host_module.WatchedProcess, "start", start)
    monkeypatch.setattr(pool_module, "_FIRST_DELAY_S", 0.05)


def group(tmp_path: Path, **settings: object) -> WorkerGroup:
    made = Settings(store=tmp_path, **settings)  # type: ignore[arg-type]
    return WorkerGroup("toy", "1.0", Lane.EXPLANATIONS, tmp_path, None, made)


def run(tmp_path: Path, test: Callable[[ProcessHost], Awaitable[None]]) -> None:
    async def inside() -> None:
        others = set(psutil.Process().children(recursive=True))
        root = tmp_path / "private"
        root.mkdir()
        async with asyncio.timeout(60), process_host(root, Settings(store=tmp_path)) as host:
            await test(host)
        async with asyncio.timeout(5):  # one that was killed is a child until it is waited for
            while set(psutil.Process().children(recursive=True)) - others:
                await asyncio.sleep(0.02)

    asyncio.run(inside())


async def ready(host: ProcessHost, group: WorkerGroup) -> list[int]:
    """Process ids of the workers, once all are ready."""
    while not all(status.ready for status in await host.workers(group)):
        await asyncio.sleep(0.02)
    return [status.pid for status in await host.workers(group)]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_a_frame_holds_its_messages(messages: list[bytes]) -> None:
    frame = pack(messages)
    assert unpack(frame[LENGTH.size :]) == messages
    for cut in range(LENGTH.size, len(frame)):
        try:
            assert unpack(frame[LENGTH.size : cut]) == messages[: len(unpack(frame[LENGTH.size : cut]))]
        except ValueError as error:
            assert "ends within a message" in str(error)


@pytest.mark.usefixtures("command")
def test_requests_are_answered_in_batches_by_all_workers(tmp_path: Path) -> None:
    async def test(host: ProcessHost) -> None:
        toy = group(tmp_path, workers=2, batch_size=4)
        await host.register(toy)
        pids = await ready(host, toy)
        assert len(set(pids)) == 2
        replies = await asyncio.gather(*(host.ask("toy", "1.0", b"%d" % n) for n in range(10)))
        sizes = [1, 1, 4, 4, 4, 4, 4, 4, 4, 4]
        assert [reply.split(b" by ")[0] for reply in replies] == [b"%d of %d" % (n, sizes[n]) for n in range(10)]
        assert {int(reply.split(b" by ")[1]) for reply in replies} == set(pids)
        with pytest.raises(UnavailableError) as caught:
            await host.register(toy)
        assert caught.value.reason == REFUSED

    run(tmp_path, test)


@pytest.mark.usefixtures("command")
def test_a_worker_that_dies_takes_its_batch_along_and_comes_back(tmp_path: Path) -> None:
    """What stood behind the batch is answered by the new one."""

    async def test(host: ProcessHost) -> None:
        toy = group(tmp_path, batch_size=2)
        await host.register(toy)
        [pid] = await ready(host, toy)
        requests = (b"first", b"die", b"mate", b"next")
        found = await asyncio.gather(*(host.ask("toy", "1.0", each) for each in requests), return_exceptions=True)
        assert [type(each) for each in found] == [bytes, WorkerGoneError, WorkerGoneError, bytes]
        assert [pid] != await ready(host, toy)
        [pid] = await ready(host, toy)
        os.kill(pid, 9)
        # That it is gone is noticed a moment after it is.
        while await ready(host, toy) == [pid]:
            await asyncio.sleep(0.02)
        assert (await host.ask("toy", "1.0", b"later")).startswith(b"later of 1")

    run(tmp_path, test)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("how", [b"hang", b"few"])
def test_a_worker_that_takes_too_long_or_talks_nonsense_is_replaced(tmp_path: Path, how: bytes) -> None:
    async def test(host: ProcessHost) -> None:
        toy = group(tmp_path, worker_timeout=1)
        await host.register(toy)
        [pid] = await ready(host, toy)
        with pytest.raises(WorkerGoneError):
            await host.ask("toy", "1.0", how)
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.02)
        assert (await host.ask("toy", "1.0", b"again")).startswith(b"again")

    run(tmp_path, test)


@pytest.mark.usefixtures("command")
def test_what_stands_behind_a_worker_that_is_ended_goes_to_the_next_one(tmp_path: Path) -> None:
    async def test(host: ProcessHost) -> None:
        toy = group(tmp_path, worker_timeout=1, batch_size=1)
        await host.register(toy)
        await ready(host, toy)
        calls = [host.ask("toy", "1.0", request) for request in (b"few", b"next", b"third")]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in found] == [WorkerGoneError, bytes, bytes]

    run(tmp_path, test)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_host_that_is_ended_while_it_ends_a_group_leaves_nothing(tmp_path: Path, turns: int) -> None:
    ending: list[asyncio.Task[None]] = []

    async def test(host: ProcessHost) -> None:
        toy = group(tmp_path)
        await host.register(toy)
        await ready(host, toy)
        ending.append(asyncio.create_task(host.unregister(toy)))
        for _ in range(turns):
            await asyncio.sleep(0)
        with pytest.raises(WorkerGoneError):
            await host.ask("toy", "1.0", b"late")
        ending[0].cancel()

    run(tmp_path, test)


@pytest.mark.usefixtures("command")
def test_what_waits_for_workers_that_are_ended_is_told(tmp_path: Path) -> None:
    async def test(host: ProcessHost) -> None:
        toy = group(tmp_path, batch_size=1)
        await host.register(toy)
        [pid] = await ready(host, toy)
        calls = [host.ask("toy", "1.0", b"hang") for _ in range(2)]
        await asyncio.sleep(0.1)
        await host.unregister(toy)
        assert {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)} == {WorkerGoneError}
        assert not psutil.pid_exists(pid)
        with pytest.raises(WorkerGoneError):
            await host.ask("toy", "1.0", b"late")
        for refused in (host.unregister, host.workers):
            with pytest.raises(UnavailableError) as caught:
                await refused(toy)
            assert caught.value.reason == REFUSED

    run(tmp_path, test)


@pytest.mark.usefixtures("command")
def test_workers_that_never_start_come_ever_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLBORN", "1")

    async def test(host: ProcessHost) -> None:
        await host.register(group(tmp_path))
        log, times = tmp_path / "private" / "worker.log", list[float]()
        while len(times) < 4:
            times += [time.monotonic()] * (log.read_text().count("started toy-1.0-0") - len(times))
            await asyncio.sleep(0.005)
        assert times[3] - times[2] > 0.3

    run(tmp_path, test)


def test_a_log_has_a_bounded_size(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "worker.log", largest=100)
    for number in range(100):
        log.write(b"%09d\n" % number)
    log.close()
    assert (tmp_path / "worker.log").read_text().splitlines()[-1] == "000000099"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 120
