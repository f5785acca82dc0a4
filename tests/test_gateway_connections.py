"""Connections of unknown peers: without delay, bounded in number, time and memory, and never in the way of others."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from gateway_fakes import Service
from listening import Listening, run, until
from proponent.errors import OverloadedError
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.limits.connections import Listener, connection_limit
from proponent.v1 import explanation_pb2 as pb

PATH = "/v1/models/toy:predict"
BODY = json.dumps({"instances": [{"image": base64.b64encode(b"png").decode()}]}).encode()
HASTY = dict(idle_timeout=0.3, transfer_timeout=1.0)


def head(length: int = len(BODY), kind: str = "application/json", extra: str = "") -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{extra}\r\n"
    ).encode()


async def said(transports: Listening, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What a connection answers to some bytes until it is closed."""
    reader, writer = await asyncio.open_connection(*transports.http_address)
    heard = bytearray()

    async def hear() -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                heard.extend(piece)

    hearing = asyncio.create_task(hear())
    for part in parts:
        if writer.is_closing():
            break
        writer.write(part)
        await asyncio.sleep(pause_s)
    await asyncio.wait_for(hearing, 10)
    writer.close()
    return bytes(heard)


async def assert_good(transports: Listening) -> None:
    async with transports.client() as client:
        reply = await client.post(PATH, content=BODY, headers={"content-type": "application/json"})
    assert reply.json()["predictions"][0]["class_id"] == 1


def test_small_replies_wait_for_no_acknowledgement(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        async with transports.client() as client:
            assert (await client.get("/healthz")).status_code == 200
            (connection,) = transports.http.server_state.connections
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(tmp_path, ask)


@pytest.mark.parametrize(
    "begun", [b"", b"GET /healthz HT", head(), b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTT"]
)
def test_what_never_becomes_a_request_is_closed(tmp_path: Path, begun: bytes) -> None:
    async def ask(transports: Listening) -> None:
        await said(transports, begun)
        assert not transports.http.server_state.connections
        await assert_good(transports)

    run(tmp_path, ask, **HASTY)


def test_headers_that_drip_are_closed(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        reader, writer = await asyncio.open_connection(*transports.http_address)
        writer.write(b"GET /")
        with pytest.raises(ConnectionError):
            for _ in range(50):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        assert reader.at_eof()

    run(tmp_path, ask, **HASTY)


def test_a_body_that_stalls_or_drips_is_answered(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        for parts, pause_s in (((head(), BODY[:5]), 0.0), ((head(), *[b"x"] * 30), 0.1)):
            answer = await said(transports, *parts, pause_s=pause_s)
            assert answer.startswith(b"HTTP/1.1 408") and b"BODY_TIMEOUT" in answer
        await until(lambda: not transports.http.server_state.connections)
        await assert_good(transports)

    run(tmp_path, ask, **HASTY)


def test_a_body_that_nobody_wants_ends(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        answer = await said(transports, head(1 << 20, "application/xml"), *[b"x"] * 30, pause_s=0.05)
        assert answer.startswith(b"HTTP/1.1 415")
        await until(lambda: not transports.http.server_state.connections)

    run(tmp_path, ask, **HASTY)


def test_a_reply_that_is_not_taken_ends(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        transports.service.model.deployment.manifest.audit["note"] = "x" * (32 << 20)
        reader, writer = await asyncio.open_connection(*transports.http_address, limit=1024)
        writer.write(b"GET /v1/models/toy HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: bool(transports.http.server_state.connections))
        await until(lambda: not transports.http.server_state.connections)
        writer.close()
        assert not reader.at_eof()

    run(tmp_path, ask, **HASTY)


def test_bodies_share_one_budget(tmp_path: Path) -> None:
    """Uploads over it are refused, in both transports, until those before are done; what they held is given back."""
    limits = dict(max_buffered_bytes=300_000, max_body_bytes=100_000, idle_timeout=2)

    async def ask(transports: Listening) -> None:
        stalled = [await asyncio.open_connection(*transports.http_address) for _ in range(3)]
        for _, writer in stalled:
            writer.write(head(100_000) + b"x" * 99_999)
        async with transports.client() as client, grpc.aio.insecure_channel(transports.grpc_address) as channel:
            await until(lambda: transports.service.calls.bodies.held == 3 * 99_999)
            reply = await client.post(PATH, content=BODY, headers={"content-type": "application/json"})
            assert (reply.status_code, reply.json()["reason"]) == (429, "BODIES_FULL")
            assert reply.headers["retry-after"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await transports.stub(channel).Predict(pb.PredictRequest(model="toy", encoded_image=b"x" * 99))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _, writer in stalled:
            writer.close()
        await until(lambda: not transports.service.calls.bodies.held)
        await assert_good(transports)

    run(tmp_path, ask, **limits)


def test_a_caller_who_leaves_is_not_a_defect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def ask(transports: Listening) -> None:
        transports.service.worker.hold = asyncio.Event()
        for part in (BODY[:9], BODY):
            _, writer = await asyncio.open_connection(*transports.http_address)
            writer.write(head() + part)
            await until(lambda: transports.service.calls.bodies.held > 0)
            writer.close()
            await until(lambda: transports.service.calls.bodies.held == 0)
        left = re.compile(rb'seconds_count{.*http_response_status_code="499".*} 2\.0')
        await until(lambda: left.search(transports.service.metrics.exposition()[0]) is not None)
        assert b'proponent_requests_in_flight{method="Predict"} 0' in transports.service.metrics.exposition()[0]

    run(tmp_path, ask)
    assert "defect" not in capsys.readouterr().out


def test_a_listener_takes_so_many_connections_and_closes_the_rest() -> None:
    with socket.create_server(("127.0.0.1", 0)) as created, Listener(created, 2) as listener:
        listener.settimeout(1)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        taken = [listener.accept()[0] for _ in range(2)]
        with pytest.raises(TimeoutError):
            listener.accept()
        assert [client.recv(1) for client in clients[2:]] == [b""] * 3
        taken[0].close()
        taken[0].close()
        clients.append(socket.create_connection(listener.getsockname()))
        taken.append(listener.accept()[0])
        for each in (*clients, *taken):
            each.close()


def test_a_transport_takes_its_part_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, expected in ((128, 32), (1 << 20, 1024), (70, 8), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connection_limit(1024) == expected


_SERVER = """
import asyncio, resource, sys
from pathlib import Path
from proponent.gateway.log import configure_logs
import listening

async def ask(transports):
    print(transports.http_address[1], transports.grpc_address, flush=True)
    await asyncio.Event().wait()

configure_logs()
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
listening.run(Path(sys.argv[1]), ask)
"""


def test_more_connections_than_files_leave_the_process_calm(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", _SERVER, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        assert server.stdout is not None
        port, address = server.stdout.readline().decode().split()
        _crowd(server, int(port), int(address.rpartition(":")[2]))
        assert (tmp_path / "log").stat().st_size < 100_000
    finally:
        server.kill()
        server.communicate()


def _crowd(server: subprocess.Popen[bytes], *ports: int) -> None:
    """150 idle connections to each transport: little work, and an answer as soon as they leave."""
    for port in ports:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
        time.sleep(0.5)
        before = psutil.Process(server.pid).cpu_times().user
        time.sleep(2)
        assert psutil.Process(server.pid).cpu_times().user - before < 0.5
        for each in idle:
            each.close()
    reply = httpx.get(f"http://127.0.0.1:{ports[0]}/healthz", trust_env=False)
    assert reply.status_code == 200
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        grpc.channel_ready_future(channel).result(10)


def test_the_budget_of_a_service_is_the_settings(tmp_path: Path) -> None:
    service = Service(tmp_path, max_buffered_bytes=10)
    with service.calls.bodies.reservation(ANYBODY) as reservation:
        reservation.add(10)
        with pytest.raises(OverloadedError):
            reservation.add(1)
        assert service.calls.bodies.held == 10
    assert service.calls.bodies.held == 0
    service.close()
