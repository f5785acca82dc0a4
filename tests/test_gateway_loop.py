"""Nothing that a caller sends or asks for holds the event loop for long: everybody else is answered meanwhile.

What is measured is the processor time of each step of the loop, which other work on the machine does not change.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from gateway_fakes import echo
from listening import Listening, run, until
from proponent.index.catalog import Catalog, CatalogEntry, write_catalog
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

LONGEST_S = 0.05
JSON = {"content-type": "application/json"}
IMAGE = base64.b64encode(bytes(9 << 20)).decode()


@contextmanager
def watched() -> Iterator[list[tuple[float, str]]]:
    """Processor seconds of each step of the event loop, one of asyncio's own, and what it was."""
    steps: list[tuple[float, str]] = []
    original = asyncio.Handle._run  # type: ignore[attr-defined]

    def measured(handle: Any) -> None:
        started = time.thread_time()
        original(handle)
        steps.append((time.thread_time() - started, repr(handle)))

    gc.collect()
    gc.freeze()  # as a gateway does once it is set up: the collector need not look at libraries again and again
    try:
        with mock.patch.object(asyncio.Handle, "_run", measured):
            yield steps
    finally:
        gc.unfreeze()


@cache
def longest(top_k: int) -> bytes:
    """What a worker sends of so many training examples in each list."""
    names = [pb.Influence(example_id=f"toy/{rank}", score=rank / 7, rank=rank) for rank in range(top_k)]
    result = pb.MeasureResult(proponents=names, opponents=names)
    return WorkerReply(explain=pb.ExplainResponse(results=[result] * 3)).SerializeToString()


def answer(request: WorkerRequest) -> WorkerReply:
    """Read from bytes, as what comes from a worker is."""
    if request.WhichOneof("call") != "explain":
        return echo(request)
    return WorkerReply.FromString(longest(request.explain.top_k))


def numbers(count: int) -> list[Any]:
    return [[[0.123456789] * 512] * 512] * count


CALLS = {
    "many instances with long lists": ("explain", {"instances": [{"image": "AAAA"}] * 20, "top_k": 800}),
    "one instance with the longest lists": ("explain", {"instances": [{"image": "AAAA"}], "top_k": 4999}),
    "a large tensor of the wrong shape": ("predict", {"instances": [numbers(9)]}),
    "many ids": ("estimateRemoval", {"query": {"image": "AAAA"}, "example_ids": [f"toy/{n}" for n in range(99_999)]}),
    "a large image in base64": ("predict", {"instances": [{"image": IMAGE}]}),
    "too many instances": ("predict", {"instances": [{"image": "AAAA"}] * 200_000}),
    "deep nesting": ("predict", {"instances": [json.loads("[" * 900 + "]" * 900)] * 1000}),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_json_holds_the_loop(tmp_path: Path, name: str) -> None:
    method, body = CALLS[name]
    content = json.dumps(body).encode()

    async def ask(transports: Listening) -> None:
        await assert_free(transports, f"/v1/models/toy:{method}", content=content, headers=JSON)

    run(tmp_path, ask, asyncio.run)


def test_no_form_and_no_image_holds_the_loop(tmp_path: Path) -> None:
    image = bytes(9 << 20)

    async def ask(transports: Listening) -> None:
        path = "/v1/models/toy:explain"
        await assert_free(transports, path, files={"image": ("x.png", image, "image/png")})
        await assert_free(transports, path, content=image, headers={"content-type": "image/png"})
        options = json.dumps({"filter": {"exclude_example_ids": [f"toy/{n}" for n in range(90_000)]}})
        await assert_free(transports, path, files={"image": ("x.png", image, "image/png")}, data={"options": options})

    run(tmp_path, ask, asyncio.run)


def test_no_page_of_suspects_holds_the_loop(tmp_path: Path) -> None:
    entries = (CatalogEntry(row, f"id/{row}", 0, 1, float(row % 997), "") for row in range(200_000))
    write_catalog(tmp_path / "large.sqlite", entries)

    async def ask(transports: Listening) -> None:
        bundle = transports.service.model.deployment.bundle
        object.__setattr__(bundle, "catalog", Catalog.open(tmp_path / "large.sqlite"))
        for query in ("limit=10000", "limit=10000&offset=180000"):
            await assert_free(transports, f"/v1/models/toy/suspects?{query}", method="GET")

    run(tmp_path, ask, asyncio.run)


CHUNKED = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
WANTED, UNWANTED = CHUNKED % b"/v1/models/toy:predict", CHUNKED % b"/healthz"
FRAMING = {
    "chunks of a byte": (WANTED, b"1\r\nx\r\n" * 60_000),
    "chunks of a byte that nobody wants": (UNWANTED, b"1\r\nx\r\n" * 60_000),
    "chunks of a hundred bytes": (WANTED, (b"64\r\n" + b"x" * 100 + b"\r\n") * 10_000),
}


@pytest.mark.parametrize("name", FRAMING)
def test_what_is_mostly_framing_is_refused_and_holds_no_loop(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, framing = FRAMING[name]

    async def ask(transports: Listening) -> None:
        await assert_free(transports, "/healthz", "GET")
        with watched() as steps:
            heard = await asyncio.to_thread(said, transports.http_address, begun, framing)
        # Of a path that takes no such request that may be said first.
        assert not heard or b"HTTP_INVALID" in heard or (begun is UNWANTED and b" 405 " in heard), heard
        assert sum(seconds for seconds, _ in steps) < 4 * LONGEST_S
        assert max(steps)[0] < LONGEST_S, sorted(steps)[-3:]
        await until(lambda: not transports.http.server_state.connections)

    run(tmp_path, ask, asyncio.run)
    assert "defect" not in capsys.readouterr().out


def test_chunks_of_a_usual_size_are_read(tmp_path: Path) -> None:
    content = json.dumps({"instances": [{"image": base64.b64encode(bytes(1 << 20)).decode()}]}).encode()

    async def ask(transports: Listening) -> None:
        pieces = (content[start : start + 256] for start in range(0, len(content), 256))
        await assert_free(transports, "/v1/models/toy:predict", content=pieces, headers=JSON)

    run(tmp_path, ask, asyncio.run)


def said(address: tuple[str, int], *parts: bytes) -> bytes:
    """What a connection answers before it is closed."""
    heard = b""
    with socket.create_connection(address, timeout=10) as connection, suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
        while piece := connection.recv(1 << 16):
            heard += piece
    return heard


async def assert_free(transports: Listening, path: str, method: str = "POST", **request: Any) -> None:
    """One call from another thread, as from another machine."""
    client = httpx.Client(base_url=transports.url, trust_env=False, timeout=60)
    with client:
        # The first request of a process pays for what its libraries put off.
        transports.service.worker.handle = answer
        for top_k in (10, 800, 4999):
            longest(top_k)
        body = {"instances": [{"image": "AAAA", "top_k": 900}]}
        await asyncio.to_thread(client.post, "/v1/models/toy:explain", json=body)
        with watched() as steps:
            reply = await asyncio.to_thread(client.request, method, path, **request)
    assert reply.status_code in (200, 400), reply.text[:300]
    assert max(steps)[0] < LONGEST_S, sorted(steps)[-3:]
