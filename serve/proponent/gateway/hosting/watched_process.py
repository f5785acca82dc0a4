"""A command with a watchdog that ends it, and all that it started, with the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from proponent.errors import UnavailableError
from proponent.gateway.hosting import watchdog

_KILL_WAIT_S = 5.0


class WatchedProcess:
    """A started command.

    Args:
        process: The watchdog; its exit is the command's exit.
        group: Process id of the command, and id of its process group.
    """

    def __init__(self, process: asyncio.subprocess.Process, group: int) -> None:
        self._process = process
        self.group = group

    @classmethod
    async def start(
        cls, command: Sequence[str], directory: Path, environment: Mapping[str, str], log: IO[bytes] | int
    ) -> Self:
        """Starts a command in a directory, which is removed should the gateway die.

        Args:
            command: What is run.
            directory: Where.
            environment: All of it.
            log: Takes what the command prints; asyncio's PIPE makes it ``output``.

        Raises:
            UnavailableError: It cannot be started.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(Path(watchdog.__file__)), str(directory), *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"{Path(command[0]).name} could not be started: {error}") from error
        return cls(process, await _group_of(process, command))

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    @property
    def output(self) -> asyncio.StreamReader | None:
        """What the command prints, where ``log`` was asyncio's PIPE."""
        return self._process.stderr

    async def wait(self) -> None:
        """Waits until it is gone."""
        await self._process.wait()

    async def pause(self, seconds: float) -> None:
        """Waits, but not longer than it lives."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and kills it and all that it started when it does not within the grace."""
        await self._command(b"t")
        await self.pause(grace_s)
        await self._command(b"k")
        await self.pause(_KILL_WAIT_S)
        if self._process.returncode is None or self._process.returncode < 0:
            _kill(self._process.pid, self.group)
            await self._process.wait()

    async def _command(self, letter: bytes) -> None:
        stdin = self._process.stdin
        if self.ended or stdin is None:
            return
        with contextlib.suppress(ConnectionError):
            stdin.write(letter)
            await stdin.drain()


async def _group_of(process: asyncio.subprocess.Process, command: Sequence[str]) -> int:
    """Reads the group that the watchdog prints; it prints none when the command cannot be started.

    A start that is cancelled here ends by itself: the watchdog's input closes with the last reference to it.
    """
    output = process.stdout
    line = await output.readline() if output is not None else b""
    if not line.strip().isdigit():
        await process.wait()
        raise UnavailableError(f"{Path(command[0]).name} could not be started; is it there?")
    return int(line)


def _kill(watchdog_pid: int, group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(watchdog_pid, signal.SIGKILL)
