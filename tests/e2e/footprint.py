"""What a running gateway takes of its machine, to be compared before and after faults."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil
from running import RunningGateway

# Names that a library or the system draws anew: process ids, hashes, random numbers.
_DRAWN = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")
_LOGS = ".log"
_SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Footprint:
    """Counts of what could be left behind.

    Attributes:
        processes: Below the gateway.
        descriptors: Files and sockets that the gateway's own process has open.
        files: Below its temporary directory, by their names without what is drawn anew.
        shared_memory: Names in /dev/shm, but for those that processes of others hold.
    """

    processes: int
    descriptors: int
    files: Counter[str]
    shared_memory: frozenset[str]


def footprint(gateway: RunningGateway) -> Footprint:
    """Of a gateway at rest."""
    names = (path.relative_to(gateway.temporary).as_posix() for path in gateway.temporary.rglob("*"))
    files = Counter(_DRAWN.sub("#", name) for name in names if _LOGS not in name)
    own, below = psutil.Process(gateway.process.pid), gateway.descendants()
    shared = _shared_memory({own.pid, *(process.pid for process in below)})
    return Footprint(len(below), own.num_fds(), files, shared)


def _shared_memory(family: Collection[int]) -> frozenset[str]:
    """What is in /dev/shm that nobody but these processes, or nobody at all, has mapped."""
    held = set[str]()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) not in family:
            with contextlib.suppress(OSError):  # it has ended
                held.update(re.findall(rf"{_SHARED}/(\S+)", maps.read_text()))
    return frozenset(os.listdir(_SHARED) if _SHARED.is_dir() else ()) - held


def assert_no_more(gateway: RunningGateway, before: Footprint, *, spare: int = 4) -> None:
    """Fails where a gateway takes more than before, after a moment in which what has ended is cleared away.

    ``spare`` descriptors may be open by chance: kept connections, a look into a file.
    """
    deadline = time.monotonic() + 20
    while _more(before, after := footprint(gateway), spare) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not _more(before, after, spare), (before, after)


def _more(before: Footprint, after: Footprint, spare: int) -> bool:
    return (
        after.processes > before.processes
        or after.descriptors > before.descriptors + spare
        or bool(after.files - before.files)
        or bool(after.shared_memory - before.shared_memory)
    )
