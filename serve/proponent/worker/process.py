"""A worker as a process of the gateway's own: ``python -m proponent.worker.process SOCKET NAME SECTION``.

It loads what the section (JSON) says, connects to the gateway's socket, sends its name, and answers one
batch after the other until the gateway hangs up, or until it has lost its GPU: the gateway then starts another one.
"""

from __future__ import annotations

import json
import logging
import socket
import sys

from proponent.bounds.frames import LENGTH, frame_size, pack, unpack
from proponent.worker.starting import started_worker
from proponent.worker.wire import read_messages


def main(arguments: list[str]) -> int:
    """Runs a worker until the gateway hangs up or it can answer no more; returns the exit status."""
    path, name, section = arguments
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    worker = started_worker(json.loads(section), None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(pack([name.encode()]))
        while not worker.is_lost and (body := _received(connection)) is not None:
            replies = worker.handle(read_messages(unpack(body)))
            connection.sendall(pack(reply.SerializeToString() for reply in replies))
    return int(worker.is_lost)


def _received(connection: socket.socket) -> bytes | None:
    """The body of the next frame; None where the other side has hung up."""
    head = _exactly(connection, LENGTH.size)
    return None if head is None else _exactly(connection, frame_size(head))


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    content = bytearray(size)
    view, got = memoryview(content), 0
    while got < size:
        more = connection.recv_into(view[got:])
        if not more:
            return None
        got += more
    return bytes(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
