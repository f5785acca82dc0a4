"""gRPC with callers who send nonsense, send nothing, leave, or take nothing: each is told and counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from listening import Listening, run, until
from proponent.gateway.auth import Scope
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from tokens import knowing

SERVICE = "/proponent.v1.ExplanationService/"
CODE = grpc.StatusCode
PREDICT = pb.PredictRequest(model="toy", encoded_image=b"png")


def raw(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.stream_stream(SERVICE + method)


def counted(transports: Listening, method: str, code: str) -> Callable[[], bool]:
    labels = f'rpc_method="proponent.v1.ExplanationService/{method}",rpc_response_status_code="{code}"}} 1.0'
    line = re.compile(rf"^rpc_server_call_duration_seconds_count{{.*{re.escape(labels)}$", re.MULTILINE)
    return lambda: line.search(transports.service.metrics.exposition()[0].decode()) is not None


async def refusal(call: Any, *messages: bytes) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        for message in messages:
            await call.write(message)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    return caught.value


@pytest.mark.parametrize("method", ["Predict", "Explain", "GetModel", "ListSuspects", "EstimateRemoval"])
def test_a_message_that_is_not_protobuf_is_bad_input(tmp_path: Path, method: str) -> None:
    async def ask(transports: Listening) -> None:
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            call = raw(channel, method)(metadata=(("x-request-id", "trace-1"),))
            error = await refusal(call, b"\xff\xff no message")
            info = error_details_pb2.ErrorInfo()
            details = dict(error.trailing_metadata())
            assert error.code() is CODE.INVALID_ARGUMENT and details["x-request-id"] == "trace-1"
            status = status_pb2.Status.FromString(details["grpc-status-details-bin"])
            assert status.details[0].Unpack(info) and info.reason == "MESSAGE_MALFORMED"
            assert counted(transports, method, "INVALID_ARGUMENT")()
            assert (await refusal(raw(channel, method)())).code() is CODE.INVALID_ARGUMENT

    run(tmp_path, ask)


def test_an_error_that_names_a_long_text_arrives_whole(tmp_path: Path) -> None:
    """Metadata above 8 KiB would be dropped on the way, the reason with it."""

    async def ask(transports: Listening) -> None:
        request = pb.GetExampleRequest(model="toy", example_id="\U0001f600" * 1024)
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            error = await refusal(raw(channel, "GetExample")(), request.SerializeToString())
            status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
            info = error_details_pb2.ErrorInfo()
            assert error.code() is CODE.NOT_FOUND and status.details[0].Unpack(info)
            assert info.reason == "EXAMPLE_UNKNOWN" and (error.details() or "").startswith(
                "training example '\U0001f600"
            )
            assert sum(len(key) + len(value) for key, value in error.trailing_metadata()) < 8192
        async with transports.client() as client:
            reply = await client.get(f"/v1/models/toy/examples/{'x' * 5000}")
            assert len(reply.json()["detail"]) <= 1000 and reply.json()["field"] == "example_id"

    run(tmp_path, ask, allow_examples=True)


def test_a_message_that_is_not_protobuf_fails_alone_in_a_stream(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        good = pb.StreamExplainRequest(request=pb.ExplainRequest(model="toy", encoded_image=b"x", request_id="r"))
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            call = raw(channel, "StreamExplain")()
            for message in (b"\xff\xff", good.SerializeToString()):
                await call.write(message)
            await call.done_writing()
            answers = [pb.StreamExplainResponse.FromString(await call.read()) for _ in range(2)]
        assert {(a.request_id, a.WhichOneof("outcome")) for a in answers} == {("", "error"), ("r", "response")}

    run(tmp_path, ask)


def test_a_passed_deadline_and_a_caller_who_leaves_are_told_apart(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        transports.service.worker.hold = asyncio.Event()
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await transports.stub(channel).Predict(PREDICT, timeout=0.5)
            assert caught.value.code() is CODE.DEADLINE_EXCEEDED
            await until(counted(transports, "Predict", "DEADLINE_EXCEEDED"))
            leaving = transports.stub(channel).Predict(PREDICT, timeout=20)
            await until(lambda: len(transports.service.worker.asked) == 2)
            leaving.cancel()
            await until(counted(transports, "Predict", "CANCELLED"))

    run(tmp_path, ask)


def test_a_stalled_upload_is_left_and_an_unknown_caller_is_refused_before_it(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            call = raw(channel, "Predict")(metadata=(("authorization", "Bearer key"),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is CODE.DEADLINE_EXCEEDED
            assert counted(transports, "Predict", "DEADLINE_EXCEEDED")()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(channel, "Predict")().read()
            assert caught.value.code() is CODE.UNAUTHENTICATED
            reply = await transports.stub(channel).Predict(PREDICT, metadata=(("authorization", "Bearer key"),))
            assert reply.prediction.class_id == 1

    run(tmp_path, ask, authenticator=knowing(tmp_path / "tokens", {"key": "predict"}), transfer_timeout=0.3)


def test_stalled_uploads_keep_nobody_out(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        seats = transports.service.settings.max_messages
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            stalled = [raw(channel, "Predict")() for _ in range(2 * seats)]
            ends = [asyncio.ensure_future(call.read()) for call in stalled]
            await until(lambda: sum(call.done() for call in stalled) >= seats)
            assert {await call.code() for call in stalled if call.done()} == {CODE.DEADLINE_EXCEEDED}
            for _ in range(2):
                assert (await transports.stub(channel).Predict(PREDICT, timeout=10)).prediction.class_id == 1
            assert sum(call.done() for call in stalled) <= seats + 2
            for call in stalled:
                call.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    run(tmp_path, ask, fair_transfer_timeout=0.5, max_buffered_bytes=72 << 20)


def test_a_reply_that_is_not_taken_ends_the_call(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        def large(request: WorkerRequest) -> WorkerReply:
            return WorkerReply(predict=pb.PredictResponse(request_id="x" * (64 << 20)))

        transports.service.worker.handle = large
        reader, writer = await asyncio.open_connection(*transports.grpc_address.split(":"))
        body = PREDICT.SerializeToString()
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4) + frame(1, HEADERS, flags=4))
        writer.write(frame(0, b"\0" + len(body).to_bytes(4, "big") + body, flags=1))
        not_taken = b'proponent_errors_total{error_type="TRANSFER_TOO_SLOW",transport="grpc"} 1.0'
        await until(lambda: not_taken in transports.service.metrics.exposition()[0])
        writer.close()
        await reader.read()

    run(tmp_path, ask, transfer_timeout=0.3)


def literal(name: str, value: str) -> bytes:
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


HEADERS = b"".join(
    literal(*pair)
    for pair in (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", SERVICE + "Predict"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
)


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """A frame of HTTP/2, of stream 1 unless it is of settings."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + (0 if kind == 4 else 1).to_bytes(4, "big") + payload


def test_both_transports_ask_for_permission_before_they_read(tmp_path: Path) -> None:
    """A token without the scope is refused whatever the call, while its message is still on the way."""

    async def ask(transports: Listening) -> None:
        token = {"authorization": "Bearer key"}
        methods = transports.service.calls.methods
        scopes = {name: method.scope for name, method in methods.items()} | {"StreamExplain": Scope.EXPLAIN}
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel:
            for name in (name for name, scope in scopes.items() if scope not in (None, Scope.PREDICT)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await raw(channel, name)(metadata=tuple(token.items())).read()
                assert caught.value.code() is CODE.PERMISSION_DENIED, name
        async with transports.client() as client:
            for verb in ("explain", "scoreExamples", "estimateRemoval", "findFlipSet"):
                reply = await client.post(f"/v1/models/toy:{verb}", content=b"{", headers=token)
                assert reply.status_code == 403, verb
            for path in ("models/toy/suspects", "models/toy/examples/toy/1", "examples/toy/1"):
                assert (await client.get(f"/v1/{path}", headers=token)).status_code == 403, path
            assert (await client.get("/v1/models")).status_code == 401

    run(tmp_path, ask, authenticator=knowing(tmp_path / "tokens", {"key": "predict"}))
