"""Connections of strangers: without delay, bounded in number, time and memory, and never in the way of others."""

from __future__ import annotations

import socket
from pathlib import Path

from listening import Listening, run


def test_small_replies_wait_for_no_acknowledgement(tmp_path: Path) -> None:
    async def ask(doors: Listening) -> None:
        async with doors.client() as client:
            assert (await client.get("/healthz")).status_code == 200
            (connection,) = doors.http.server_state.connections
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(tmp_path, ask)
