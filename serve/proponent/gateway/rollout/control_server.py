"""The gateway's side of the control socket: only the user who runs the gateway can reach it.

The first gateway of a store has the socket; whoever publishes asks that one. Another gateway on the same store
says so in its log. When the first ends, it takes over the socket, and serves what has become current meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from proponent.errors import BusyError, InvalidInputError, ProponentError, UnavailableError
from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.rollout.control_client import LONGEST_LINE, SOCKET, short_path
from proponent.gateway.rollout.membership import Membership
from proponent.gateway.rollout.switch import Rollout
from proponent.gateway.served_model import stopping_error
from proponent.index.lock import exclusive

LOCK = ".gateway.lock"
_POLL_S = 1.0

_log = structlog.get_logger("proponent.gateway")


class _Commands:
    """What can be asked, by the name of the command; each takes the command and returns what it did."""

    def __init__(self, rollout: Rollout, membership: Membership) -> None:
        self.rollout = rollout
        self._membership = membership
        self._known: Mapping[str, Callable[[str, str | None], Awaitable[Any]]] = {
            "publish": membership.publish,
            "rollback": lambda model, _: rollout.rollback(model),
            "load": lambda model, _: membership.load(model),
            "unload": lambda model, _: membership.unload(model),
        }

    async def run(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Does what is asked; raises InvalidInputError for what is not known."""
        name = str(command.get("command"))
        if name == "status":
            return {"pid": os.getpid(), "models": self.rollout.status()}
        if name not in self._known:
            expected = ", ".join((*self._known, "status"))
            raise InvalidInputError(f"command {name!r} is unknown, expected one of {expected}", field="command")
        return asdict(await self._known[name](command.get("model") or "", command.get("digest")))


@asynccontextmanager
async def accept_commands(store: Path, rollout: Rollout, membership: Membership) -> AsyncIterator[None]:
    """A block in which commands are taken, from when no other gateway takes them; a warning says if not at once."""
    async with AsyncExitStack() as stack:
        commands = _Commands(rollout, membership)
        if not await _is_settled(stack, store, commands):
            _log.warning(
                "another gateway serves this store and takes its commands; "
                "this one takes newly published bundles when that one has ended",
                store=str(store),
            )
            successor = asyncio.create_task(_take_over(stack, store, commands))
            stack.push_async_callback(_cancelled, successor)
        yield


async def _is_settled(stack: AsyncExitStack, store: Path, commands: _Commands) -> bool:
    """Whether this gateway has the socket now, or can never have it; False while another one has it."""
    try:
        stack.enter_context(exclusive(store / LOCK))
        await stack.enter_async_context(_listening(store, commands))
    except BusyError:
        return False
    except (OSError, UnavailableError) as error:
        _log.warning(
            "no control socket, so no commands: what is published is taken with --watch, or at the next start",
            why=str(error),
        )
    return True


async def _take_over(stack: AsyncExitStack, store: Path, commands: _Commands) -> None:
    while not await _is_settled(stack, store, commands):
        await asyncio.sleep(_POLL_S)
    _log.info("the other gateway has ended; this one takes the commands of its store", store=str(store))
    await commands.rollout.catch_up()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _listening(store: Path, commands: _Commands) -> AsyncIterator[None]:
    listener = _bind(store)
    server = await asyncio.start_unix_server(partial(_serve, commands), sock=listener, limit=LONGEST_LINE)
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


async def _serve(commands: _Commands, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One command, one reply; a command that has begun goes on when its caller hangs up."""
    try:
        reply = await _reply(commands, await reader.readline())
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
    except (ConnectionError, ValueError) as error:
        _log.warning("control connection lost", why=str(error))
    except asyncio.CancelledError:
        pass  # the gateway ends before anything was asked
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _reply(commands: _Commands, line: bytes) -> dict[str, Any]:
    try:
        return {"result": await commands.run(_command(line))}
    except asyncio.CancelledError:  # by the end of the gateway and its loop alone
        known: ProponentError = stopping_error()
    except Exception as error:
        known = as_proponent_error(error)
    _log.warning("command failed", reason=known.reason, detail=known.message)
    told = {"message": known.message, "field": known.field, "reason": known.reason}
    return {"error": {"kind": type(known).__name__, **told}}


def _command(line: bytes) -> dict[str, Any]:
    try:
        command = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(f"the command is not valid JSON: {error}", field="command") from None
    if not isinstance(command, dict) or not all(isinstance(v, str | None) for v in command.values()):
        raise InvalidInputError("the command is not a JSON object of strings", field="command")
    return command
