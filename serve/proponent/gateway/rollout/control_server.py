"""The gateway's side of the control socket: only the user who runs the gateway can reach it.

The first gateway of a store has the socket; whoever publishes asks that one. Another gateway on the same store
says so in its log. When the first ends, it takes over the socket, and serves what has become current meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from proponent.errors import BusyError, InvalidInputError, UnavailableError
from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.rollout.control_client import LONGEST_LINE, SOCKET, short_path
from proponent.gateway.rollout.switch import Rollout
from proponent.index.lock import exclusive

LOCK = ".gateway.lock"
_POLL_S = 1.0

_log = structlog.get_logger("proponent.gateway")


@asynccontextmanager
async def accept_commands(store: Path, rollout: Rollout) -> AsyncIterator[None]:
    """A block in which commands are taken, from when no other gateway takes them; a warning says if not at once."""
    async with AsyncExitStack() as stack:
        if not await _is_settled(stack, store, rollout):
            _log.warning(
                "another gateway serves this store and takes its commands; "
                "this one takes newly published bundles when that one has ended",
                store=str(store),
            )
            successor = asyncio.create_task(_take_over(stack, store, rollout))
            stack.push_async_callback(_cancelled, successor)
        yield


async def _is_settled(stack: AsyncExitStack, store: Path, rollout: Rollout) -> bool:
    """Whether this gateway has the socket now, or can never have it; False while another one has it."""
    try:
        stack.enter_context(exclusive(store / LOCK))
        await stack.enter_async_context(_listening(store, rollout))
    except BusyError:
        return False
    except (OSError, UnavailableError) as error:
        _log.warning("no control socket: a newly published bundle is taken at the next start", why=str(error))
    return True


async def _take_over(stack: AsyncExitStack, store: Path, rollout: Rollout) -> None:
    while not await _is_settled(stack, store, rollout):
        await asyncio.sleep(_POLL_S)
    _log.info("the other gateway has ended; this one takes the commands of its store", store=str(store))
    await rollout.catch_up()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _listening(store: Path, rollout: Rollout) -> AsyncIterator[None]:
    listener = _bind(store)
    server = await asyncio.start_unix_server(partial(_serve, rollout), sock=listener, limit=LONGEST_LINE)
    try:
        yield
    finally:
        server.close()
        (store / SOCKET).unlink(missing_ok=True)


def _bind(store: Path) -> socket.socket:
    """The socket, in place of one that a killed gateway left; nobody can connect before its mode is set."""
    (store / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(store) as path:
            listener.bind(path)
        os.chmod(store / SOCKET, 0o600)
    except BaseException:
        listener.close()
        raise
    return listener


async def _serve(rollout: Rollout, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One command, one reply; a command that has begun goes on when its caller hangs up."""
    try:
        reply = await _reply(rollout, await reader.readline())
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
    except (ConnectionError, ValueError) as error:
        _log.warning("control connection lost", why=str(error))
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _reply(rollout: Rollout, line: bytes) -> dict[str, Any]:
    try:
        return {"result": await _run(rollout, _command(line))}
    except Exception as error:
        known = as_proponent_error(error)
        _log.warning("command failed", reason=known.reason, detail=known.message)
        return {
            "error": {
                "kind": type(known).__name__,
                "message": known.message,
                "field": known.field,
                "reason": known.reason,
            }
        }


def _command(line: bytes) -> dict[str, Any]:
    try:
        command = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(f"the command is not valid JSON: {error}", field="command") from None
    if not isinstance(command, dict) or not all(isinstance(v, str | None) for v in command.values()):
        raise InvalidInputError("the command is not a JSON object of strings", field="command")
    return command


async def _run(rollout: Rollout, command: Mapping[str, Any]) -> dict[str, Any]:
    name, model = command.get("command"), command.get("model") or ""
    if name == "status":
        return {"pid": os.getpid(), "models": rollout.status()}
    if name == "publish":
        return asdict(await rollout.roll_out(model, command.get("digest")))
    if name == "rollback":
        return asdict(await rollout.rollback(model))
    raise InvalidInputError(f"command {name!r} is unknown, expected publish, rollback or status", field="command")
