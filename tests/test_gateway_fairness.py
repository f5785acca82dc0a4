"""Streams and batches push back instead of failing, and leave room for single calls."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from listening import Listening, run, until
from proponent.errors import OverloadedError
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.limits.admission import Held
from proponent.gateway.limits.body_budget import BodyBudget
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply
from tokens import knowing

SMALL = dict(max_explanations=8, max_predictions=8, max_parts=4, max_waiting=0)
IMAGE = base64.b64encode(b"png").decode()


def slow(transports: Listening) -> None:
    """A worker that takes a moment and is overrun, as TorchServe's queue, by more than the limits allow."""
    worker, at_once, most = transports.service.worker, 0, []

    async def ask(deployment: object, request: object, timeout_s: float, held: Held) -> WorkerReply:
        nonlocal at_once
        with closing(held):
            at_once += 1
            most.append(at_once)
            await asyncio.sleep(0.002)
            at_once -= 1
            assert at_once < 8
            return worker.handle(request)  # type: ignore[arg-type]

    worker.send = ask  # type: ignore[method-assign]


def items(count: int) -> Iterator[pb.StreamExplainRequest]:
    for number in range(count):
        request = pb.ExplainRequest(model="toy", encoded_image=b"png", request_id=str(number))
        yield pb.StreamExplainRequest(request=request)


async def outcomes(transports: Listening, channel: grpc.aio.Channel, count: int) -> list[str]:
    return [answer.WhichOneof("outcome") async for answer in transports.stub(channel).StreamExplain(items(count))]


def test_no_item_of_many_streams_is_refused(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        slow(transports)
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            found = await asyncio.gather(*(outcomes(transports, channel, 40) for _ in range(8)))
        assert [set(each) for each in found] == [{"response"}] * 8 and sum(map(len, found)) == 320

    run(tmp_path, ask, **SMALL)


def test_no_instance_of_many_batches_is_refused(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        slow(transports)
        async with transports.client() as client:
            body = {"instances": [{"image": IMAGE, "request_id": str(n)} for n in range(32)]}
            replies = await asyncio.gather(*(client.post("/v1/models/toy:explain", json=body) for _ in range(8)))
        for reply in replies:
            assert [each["request_id"] for each in reply.json()["explanations"]] == [str(n) for n in range(32)]

    run(tmp_path, ask, **SMALL)


def test_single_calls_find_room_beside_streams_and_are_refused_beside_each_other(tmp_path: Path) -> None:
    single = pb.ExplainRequest(model="toy", encoded_image=b"png")

    async def ask(transports: Listening) -> None:
        transports.service.worker.hold = held = asyncio.Event()
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            streams = [asyncio.ensure_future(outcomes(transports, channel, 10)) for _ in range(5)]
            await until(lambda: len(transports.service.worker.asked) == 4)
            singles = [asyncio.ensure_future(transports.stub(channel).Explain(single)) for _ in range(4)]
            await until(lambda: len(transports.service.worker.asked) == 8)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await transports.stub(channel).Explain(single)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            held.set()
            assert len(await asyncio.gather(*singles)) == 4
            assert [set(each) for each in await asyncio.gather(*streams)] == [{"response"}] * 5

    run(tmp_path, ask, **SMALL)


def test_waiting_ends_with_the_deadline(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        transports.service.worker.hold = asyncio.Event()
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [answer async for answer in transports.stub(channel).StreamExplain(items(10), timeout=0.3)]
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(
            lambda: b'proponent_requests_in_flight{method="Explain"} 0' in transports.service.metrics.exposition()[0]
        )
        assert len(transports.service.worker.asked) == 4

    run(tmp_path, ask, **SMALL)


def test_a_stream_over_the_number_of_streams_is_refused(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            first = transports.stub(channel).StreamExplain()
            await first.write(next(items(1)))
            assert (await first.read()).WhichOneof("outcome") == "response"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await outcomes(transports, channel, 1)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await first.done_writing()
            await first.read()
            assert await outcomes(transports, channel, 1) == ["response"]

    run(tmp_path, ask, max_streams=1)


def test_no_caller_takes_the_streams_of_the_others(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        noisy, quiet = ((("authorization", f"Bearer {name}"),) for name in ("noisy", "quiet"))
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            stub, held = transports.stub(channel), []
            for _ in range(2):
                held.append(stub.StreamExplain(metadata=noisy))
                await held[-1].write(next(items(1)))
                assert (await held[-1].read()).WhichOneof("outcome") == "response"
            one_more = stub.StreamExplain(metadata=noisy)
            assert await one_more.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "'caller-0'" in (await one_more.details() or "")
            other = stub.StreamExplain(metadata=quiet)
            await other.write(next(items(1)))
            assert (await other.read()).WhichOneof("outcome") == "response"
            await held[0].done_writing()
            assert await held[0].read() is grpc.aio.EOF
            again = stub.StreamExplain(metadata=noisy)
            await again.write(next(items(1)))
            assert (await again.read()).WhichOneof("outcome") == "response"

    tokens = {"noisy": "explain", "quiet": "explain"}
    run(tmp_path, ask, authenticator=knowing(tmp_path / "tokens", tokens), max_streams=4)


def test_no_caller_takes_the_memory_of_the_others() -> None:
    async def ask() -> None:
        budget = BodyBudget(100)
        noisy, quiet = (replace(ANYBODY, name=name, credential=name.encode()) for name in ("noisy", "quiet"))
        with budget.reservation(quiet) as other, budget.reservation(noisy) as more:
            with budget.reservation(noisy) as first:
                first.add(30)
                first.add(30)  # a body alone may be larger than half
                with pytest.raises(OverloadedError, match="60 of 100 bytes already, 60 of them this caller's"):
                    more.add(1)
                waiting = asyncio.create_task(more.add_when_free(1))
                await asyncio.sleep(0)
                other.add(40)
                assert not waiting.done() and budget.held == 100
            await asyncio.wait_for(waiting, 5)
            assert (more.size, budget.held) == (1, 41)
        with budget.reservation(ANYBODY) as one, budget.reservation(ANYBODY) as another:
            one.add(60)
            another.add(40)  # where nobody is known, all are one
        assert budget.held == 0

    asyncio.run(ask())


def test_a_stream_that_sends_nothing_gives_its_place_to_others(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            idle = transports.stub(channel).StreamExplain(timeout=10)
            await idle.write(next(items(1)))
            assert (await idle.read()).WhichOneof("outcome") == "response"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await idle.read()
            assert caught.value.details() == "no item arrived within 0.3 s"
            assert await outcomes(transports, channel, 1) == ["response"]

    run(tmp_path, ask, max_streams=1, transfer_timeout=0.3, request_timeout=0.3)
