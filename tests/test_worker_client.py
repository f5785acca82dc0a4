"""A caller leaves when it likes; what is held for its request is held until the worker is done with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from gateway_fakes import catalog, manifest, torchserve
from proponent.bounds.frames import BATCH, joined, unpack
from proponent.bounds.liveness import TicketIssuer, TicketTable
from proponent.errors import CorruptBundleError, DeadlineError, NotFoundError, UnavailableError
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.error_mapping import as_proponent_error, retry_after, to_item_error
from proponent.gateway.hosting.host import WorkerDefectError
from proponent.gateway.hosting.worker_client import WorkerClient
from proponent.gateway.lane import Lane
from proponent.gateway.limits.admission import Held
from proponent.gateway.torchserve.host import answer_of
from proponent.gateway.torchserve.http_client import HttpClient
from proponent.index.tombstones import FORGOTTEN, Tombstones
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import Stage, WorkerReply, WorkerRequest

DIED = '{"code": 500, "type": "InternalServerException", "message": "Worker died."}'
PREDICT = WorkerRequest(predict=pb.PredictRequest(model="toy", encoded_image=b"png"))


class Upstream:
    """In TorchServe's place: answers when it is let, and cancels nothing."""

    def __init__(self) -> None:
        self.asked: list[WorkerRequest] = []
        self.names: list[tuple[str, str]] = []
        self.let = asyncio.Event()
        self.reply = WorkerReply(predict=pb.PredictResponse(request_id="done"))
        self.failure: tuple[int, str] | None = None
        self.connections = 0
        self.serving: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                assert headers["authorization"] == "Bearer key"
                assert headers["content-type"] == BATCH
                _, model, version = head[0].split(" ")[1].removeprefix("/").split("/")
                self.names.append((model, version))
                batch = unpack(await reader.readexactly(int(headers["content-length"])))
                self.asked.extend(map(WorkerRequest.FromString, batch))
                await self.let.wait()
                status, body = self.failure or (200, joined([self.reply.SerializeToString()] * len(batch)))
                body = body.encode() if isinstance(body, str) else body
                writer.write(f"HTTP/1.1 {status} said\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                if status != 200:
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class Rig:
    def __init__(
        self,
        directory: Path,
        upstream: Upstream,
        client: WorkerClient,
        inference: HttpClient,
        board: TicketTable,
    ) -> None:
        bundle = BundleHandle(directory, manifest(), catalog(directory), Tombstones(directory / FORGOTTEN))
        self.deployment = Deployment("toy", "1.0", bundle)
        self.upstream, self.client, self.inference, self.board = upstream, client, inference, board
        self.released: list[float] = []

    def held(self) -> Held:
        stack = Held()
        stack.callback(lambda: self.released.append(time.monotonic()))
        return stack

    async def until_asked(self) -> WorkerRequest:
        while not self.upstream.asked:
            await asyncio.sleep(0.01)
        return self.upstream.asked[-1]


@asynccontextmanager
async def rig(directory: Path) -> AsyncIterator[Rig]:
    upstream, client, inference = Upstream(), WorkerClient(5.0), HttpClient(BATCH, 1 << 20, answer_of)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    office = TicketIssuer.create(directory / "liveness", 4)
    inference.connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "key")
    client.connect(await torchserve(directory, inference), office)
    made = Rig(directory, upstream, client, inference, TicketTable.open(directory / "liveness"))
    try:
        yield made
    finally:
        inference.close()
        server.close()
        upstream.let.set()
        await asyncio.gather(*upstream.serving)
        made.deployment.close()


def run(directory: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with rig(directory) as made:
            await asyncio.wait_for(test(made), 20)

    uvloop.run(inside())


def test_the_worker_is_told_when_the_answer_is_of_no_use_any_more(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.let.set()
        before = time.monotonic_ns()
        reply = await rig.client.send(rig.deployment, PREDICT, 3.0, rig.held())
        assert reply.predict.request_id == "done"
        (sent,) = rig.upstream.asked
        assert before + 3 * 10**9 <= sent.deadline_ns <= time.monotonic_ns() + 3 * 10**9
        assert sent.ticket and len(rig.released) == 1 and not rig.board.holds(sent.ticket)

    run(tmp_path, test)


@pytest.mark.parametrize(("lanes", "predicting"), [(tuple(Lane), "toy~predictions"), ([Lane.EXPLANATIONS], "toy")])
def test_predictions_go_to_their_own_workers_where_there_are_any(
    tmp_path: Path, lanes: Sequence[Lane], predicting: str
) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.let.set()
        deployment = Deployment("toy", "2.0", rig.deployment.bundle, lanes)
        await rig.client.send(deployment, PREDICT, 3.0)
        rig.upstream.reply = WorkerReply(explain=pb.ExplainResponse())
        await rig.client.send(deployment, WorkerRequest(explain=pb.ExplainRequest(model="toy")), 3.0)
        for lane in Lane:
            rig.upstream.reply = WorkerReply()
            await rig.client.verdict(deployment, lane, 3.0)
        assert rig.upstream.names == [(name, "2.0") for name in (predicting, "toy", predicting, "toy")]

    run(tmp_path, test)


def test_when_the_worker_began_is_passed_on_even_if_the_caller_has_left(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.reply = WorkerReply(
            error=pb.ItemError(code=4, reason="DEADLINE", message="late"), stages=[Stage(name="queue", end_ns=7)]
        )
        seen: list[int] = []
        with pytest.raises(DeadlineError):
            await rig.client.send(rig.deployment, PREDICT, 0.1, Held(seen.append))
        assert not seen
        rig.upstream.let.set()
        while not seen:
            await asyncio.sleep(0.01)
        assert seen == [7]

    run(tmp_path, test)


def test_a_deadline_is_answered_at_once_and_the_slot_is_held_until_the_worker_is_done(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            await rig.client.send(rig.deployment, PREDICT, 0.2, rig.held())
        assert time.monotonic() - started < 2
        sent = await rig.until_asked()
        assert not rig.board.holds(sent.ticket)
        await asyncio.sleep(0.2)
        assert not rig.released
        rig.upstream.let.set()
        while not rig.released:
            await asyncio.sleep(0.01)

    run(tmp_path, test)


def test_a_caller_who_leaves_takes_its_ticket_from_the_board_and_nothing_else(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        call = asyncio.create_task(rig.client.send(rig.deployment, PREDICT, 30.0, rig.held()))
        sent = await rig.until_asked()
        assert rig.board.holds(sent.ticket)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not rig.board.holds(sent.ticket) and not rig.released
        rig.upstream.failure = (500, DIED)
        rig.upstream.let.set()
        while not rig.released:
            await asyncio.sleep(0.01)

    run(tmp_path, test)


def test_everything_held_is_released_when_torchserve_is_gone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        call = asyncio.create_task(rig.client.send(rig.deployment, PREDICT, 30.0, rig.held()))
        await rig.until_asked()
        rig.inference.close()
        with pytest.raises(UnavailableError) as caught:
            await call
        assert caught.value.reason == "WORKER_RESTARTING"
        assert rig.released
        with pytest.raises(UnavailableError):
            await rig.client.send(rig.deployment, PREDICT, 30.0, rig.held())
        assert len(rig.released) == 2

    run(tmp_path, test)


def test_a_defect_of_the_worker_is_logged_whole_and_told_to_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.let.set()
        rig.upstream.reply = WorkerReply(error=pb.ItemError(code=13, reason="INTERNAL", message="KeyError: 'secret'"))
        with pytest.raises(WorkerDefectError) as caught:
            await rig.client.send(rig.deployment, PREDICT, 5.0, rig.held())
        told = as_proponent_error(caught.value, "trace-9")
        assert "secret" not in told.message

    run(tmp_path, test)
    logged = capsys.readouterr().out
    assert "KeyError: 'secret'" in logged and "trace-9" in logged


def test_a_verdict_is_what_the_worker_says_and_never_that_it_said_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        with pytest.raises(UnavailableError) as caught:
            await rig.client.verdict(rig.deployment, Lane.EXPLANATIONS, 0.1)
        assert caught.value.reason == "WORKER_UNRESPONSIVE" and retry_after(caught.value)
        rig.upstream.let.set()
        rig.upstream.reply = WorkerReply()
        assert await rig.client.verdict(rig.deployment, Lane.EXPLANATIONS, 5.0) is None
        for error in (CorruptBundleError("rows"), NotFoundError("x")):
            rig.upstream.reply = WorkerReply(error=to_item_error(error))
            found = await rig.client.verdict(rig.deployment, Lane.EXPLANATIONS, 5.0)
            assert type(found) is type(error)
        rig.upstream.failure = (500, DIED)
        with pytest.raises(UnavailableError):
            await rig.client.verdict(rig.deployment, Lane.EXPLANATIONS, 5.0)

    run(tmp_path, test)


@pytest.mark.parametrize("failure", [(500, DIED), (503, "no worker to serve inference request"), (404, "not found")])
def test_a_worker_that_died_is_not_called_a_full_queue(tmp_path: Path, failure: tuple[int, str]) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.let.set()
        rig.upstream.failure = failure
        with pytest.raises(UnavailableError) as caught:
            await rig.client.send(rig.deployment, PREDICT, 5.0, rig.held())
        assert caught.value.reason == "WORKER_DIED" and retry_after(caught.value)

    run(tmp_path, test)


def test_connections_are_kept_and_one_is_opened_for_each_batch_at_a_time(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.let.set()
        for _ in range(3):
            await rig.client.send(rig.deployment, PREDICT, 5.0)
        assert rig.upstream.connections == 1
        rig.upstream.let.clear()
        calls = [asyncio.create_task(rig.client.send(rig.deployment, PREDICT, 5.0)) for _ in range(40)]
        await asyncio.sleep(0.05)
        rig.upstream.let.set()
        assert {reply.predict.request_id for reply in await asyncio.gather(*calls)} == {"done"}
        assert rig.upstream.connections == 2 and len(rig.upstream.asked) == 43 and len(rig.upstream.names) == 7

    run(tmp_path, test)


def test_what_follows_an_error_goes_by_another_connection(tmp_path: Path) -> None:
    """TorchServe ends the one on which it said that a worker died."""

    async def test(rig: Rig) -> None:
        rig.upstream.failure = (500, DIED)
        first, second = (asyncio.create_task(rig.client.send(rig.deployment, PREDICT, 5.0)) for _ in range(2))
        await rig.until_asked()
        rig.upstream.let.set()
        for call in (first, second):
            with pytest.raises(UnavailableError) as caught:
                await call
            assert caught.value.reason == "WORKER_DIED"
        assert rig.upstream.connections == 2

    run(tmp_path, test)


def test_a_version_that_is_not_registered_is_like_a_worker_that_died(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        unknown = Deployment("toy", "3.0", rig.deployment.bundle)
        with pytest.raises(UnavailableError) as caught:
            await rig.client.send(unknown, PREDICT, 5.0, rig.held())
        assert caught.value.reason == "WORKER_DIED" and len(rig.released) == 1

    run(tmp_path, test)


def test_the_words_of_the_model_server_and_a_reply_over_its_limit_are_defects(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.upstream.let.set()
        rig.upstream.reply = WorkerReply(predict=pb.PredictResponse(request_id="x" * (2 << 20)))
        with pytest.raises(WorkerDefectError, match="more than"):
            await rig.client.send(rig.deployment, PREDICT, 5.0, rig.held())
        rig.upstream.failure = (500, "java.lang.Secret")
        with pytest.raises(WorkerDefectError) as caught:
            await rig.client.send(rig.deployment, PREDICT, 5.0, rig.held())
        assert "Secret" not in as_proponent_error(caught.value).message

    run(tmp_path, test)
