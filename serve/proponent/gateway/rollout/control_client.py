"""The client's side of a running gateway's control socket; nothing but the standard library is needed.

One connection carries one command and one reply, each a line of JSON: ``{"command": "publish", "model": ...,
"digest": ...}``, ``{"command": "rollback", "model": ...}``, the same of ``load`` and ``unload``, or
``{"command": "status"}``. The reply is
``{"result": {...}}`` or ``{"error": {"kind", "message", "field", "reason"}}``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proponent import errors
from proponent.errors import ProponentError, UnavailableError

SOCKET = ".gateway.sock"
# The reason with which a gateway refuses a model that it does not serve.
NOT_SERVED = "MODEL_NOT_SERVED"
LONGEST_LINE = 1 << 16
# What the shortest of the systems takes as the path of a Unix socket.
_LONGEST_PATH = 103
_TIMEOUT_S = 900.0


def request(store: Path, command: Mapping[str, str | None], timeout_s: float = _TIMEOUT_S) -> dict[str, Any] | None:
    """Asks the gateway that serves a store; None where none is running.

    Raises:
        ProponentError: What the gateway says, of the kind that it was there.
        UnavailableError: It ended, or took too long, before it answered.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with short_path(store) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise UnavailableError(f"the gateway of {store} is another user's: {error}", field="store") from error
        reply = _exchange(connection, store, json.dumps(command).encode() + b"\n")
    if "error" in reply:
        raise _error(reply["error"])
    return dict(reply["result"])


@contextmanager
def short_path(store: Path) -> Iterator[str]:
    """A path of the socket that is short enough for the system, for the length of a block.

    Raises:
        UnavailableError: The path is too long, and the system has no other name for the directory.
    """
    path = os.path.join(os.path.abspath(store), SOCKET)
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield path
        return
    handle = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not os.path.exists(f"/proc/self/fd/{handle}"):
            raise UnavailableError(f"path is too long for a control socket: {path}", field="store")
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)


def _exchange(connection: socket.socket, store: Path, line: bytes) -> dict[str, Any]:
    try:
        connection.sendall(line)
        with connection.makefile("rb") as file:
            reply = json.loads(file.readline(LONGEST_LINE))
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"the gateway of {store} gave no answer ({error}); proponent info says what is current",
            reason="GATEWAY_GONE",
        ) from error
    return dict(reply)


def _error(described: Mapping[str, str]) -> ProponentError:
    kind = getattr(errors, described["kind"], ProponentError)
    error: ProponentError = kind(described["message"], field=described["field"], reason=described["reason"])
    return error
