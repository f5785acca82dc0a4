"""What is not a request of HTTP/1.1 is refused as a problem; what cannot change a request does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from listening import Listening, run

POST = b"POST /v1/models/toy:predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
BODY = b'{"instances": [{"image": "AAAA"}]}'
CHUNKED = b"transfer-encoding: chunked\r\n"
REFUSED = {
    "no HTTP": b"\x16\x03\x01\x02\x00 hello\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "an endless head": b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"x" * (80 << 10),
    "a length beside chunks": POST + CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "a chunk without a length": POST + CHUNKED + b"\r\nxyz\r\n",
    "a path that is none": b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
}


async def answered(transports: Listening, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*transports.http_address)
    writer.write(sent)
    heard = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return heard


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_a_problem(tmp_path: Path, name: str) -> None:
    async def ask(transports: Listening) -> None:
        heard = await answered(transports, REFUSED[name])
        assert heard.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in heard
        assert b'"reason": "HTTP_INVALID"' in heard and heard.count(b"HTTP/1.1 ") == 1
        assert (await answered(transports, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    run(tmp_path, ask)


def test_a_request_for_another_protocol_is_answered_in_this_one(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nframes"
        heard = await answered(transports, asked)
        assert heard.startswith(b"HTTP/1.1 200 ") and b"connection: close" in heard

    run(tmp_path, ask)


def test_trailers_are_not_headers(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        body = b"%x\r\n%s\r\n0\r\nx-request-id: from-a-trailer\r\n\r\n" % (len(BODY), BODY)
        heard = await answered(transports, POST + CHUNKED + b"connection: close\r\n\r\n" + body)
        assert heard.startswith(b"HTTP/1.1 200 ") and b"from-a-trailer" not in heard

    run(tmp_path, ask)


def test_requests_that_come_at_once_are_answered_in_turn(tmp_path: Path) -> None:
    async def ask(transports: Listening) -> None:
        asked = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
        last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        heard = await answered(transports, 3 * asked + last)
        assert heard.count(b"HTTP/1.1 200 ") == 4 and heard.endswith(b'{"status":"alive"}')

    run(tmp_path, ask)
