"""What a gateway and its workers let each other know beside TorchServe, which neither cancels work nor sees hangs.

A directory that both can reach holds two things. The **ticket table** is memory mapped by all: a ticket of a
request stands in it as long as somebody waits for the answer, and a worker that has taken the request up says so. A
**heartbeat** is a file for each worker, into which a thread of the worker writes the time; a process that is halted,
or that cannot get at its interpreter, falls silent.

Times are those of the system's monotonic clock: all processes of a machine share it, and setting the wall clock
does not move it.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

TICKETS = "tickets"
HEARTBEAT = "heartbeat"
"""Name of the thread that writes it."""
BEAT_S = 1.0
_CELL = 8


class TicketTable:
    """Tickets of the requests that somebody waits for, one a cell, and of those that a worker has begun with.

    A ticket's cell is the rest of its division by the number of cells, so that one number says all. Ticket 0 is
    none: a request without one always counts as wanted.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        with memoryview(memory) as whole, whole.cast("Q") as cells:
            self._size = len(cells) // 2
            self._wanted, self._begun = cells[: self._size], cells[self._size :]

    @classmethod
    def open(cls, directory: Path) -> TicketTable:
        """A worker's view of the table."""
        with (directory / TICKETS).open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), 0))

    def holds(self, ticket: int) -> bool:
        """Whether somebody waits for the request with this ticket."""
        return not ticket or self._wanted[ticket % self._size] == ticket

    def begin(self, ticket: int) -> None:
        """A worker has the request with this ticket; all that workers write."""
        if ticket:
            self._begun[ticket % self._size] = ticket

    def close(self) -> None:
        """Unmaps the memory."""
        self._wanted.release()
        self._begun.release()
        self._memory.close()


class TicketIssuer(TicketTable):
    """The gateway's side of the table: it alone says what is wanted."""

    def __init__(self, memory: mmap.mmap) -> None:
        super().__init__(memory)
        self._free = deque(range(self._size))
        self._round = 0

    @classmethod
    def create(cls, directory: Path, cells: int) -> TicketIssuer:
        """A new table of so many cells in a directory, which is made."""
        directory.mkdir()
        with (directory / TICKETS).open("w+b") as file:
            file.write(bytes(2 * _CELL * cells))
            file.flush()
            return cls(mmap.mmap(file.fileno(), 0))

    def issue(self) -> int:
        """A ticket that stands in the table from now on; 0 where every cell is taken."""
        if not self._free:
            return 0
        self._round += 1
        ticket = self._round * self._size + self._free.popleft()
        self._wanted[ticket % self._size] = ticket
        return ticket

    def withdraw(self, ticket: int) -> None:
        """Nobody waits any more; the cell stays taken until the worker is done with the request."""
        if ticket and self.holds(ticket):
            self._wanted[ticket % self._size] = 0

    def retire(self, ticket: int) -> None:
        """The worker is done with the request: its cell may be taken again."""
        if ticket:
            self.withdraw(ticket)
            self._free.append(ticket % self._size)

    def has_begun(self, ticket: int) -> bool:
        """Whether a worker has begun with the request; true of one without a ticket, of which nothing is known."""
        return not ticket or self._begun[ticket % self._size] == ticket


def start_heartbeat(directory: Path) -> None:
    """Writes the time every ``BEAT_S`` seconds for as long as this process lives."""
    handle = os.open(directory / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    threading.Thread(target=_beat, args=(handle,), name=HEARTBEAT, daemon=True).start()


def _beat(handle: int) -> None:
    while True:
        with suppress(OSError):
            os.pwrite(handle, time.monotonic_ns().to_bytes(_CELL, "little"), 0)
        time.sleep(BEAT_S)


def remove_heartbeats(directory: Path) -> None:
    """Removes the heartbeats of workers that are gone, as far as that is possible now."""
    with suppress(OSError):
        for name in os.listdir(directory):
            if name.isdigit() and not _exists(int(name)):
                (directory / name).unlink(missing_ok=True)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def silence_s(directory: Path, pid: int) -> float:
    """Seconds since the last heartbeat of a worker; 0 where it never had one."""
    try:
        content = (directory / str(pid)).read_bytes()
    except OSError:
        return 0.0
    return (time.monotonic_ns() - int.from_bytes(content, "little")) / 1e9 if len(content) == _CELL else 0.0
