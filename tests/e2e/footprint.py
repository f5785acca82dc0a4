"""What a running gateway takes of its machine, to be compared before and after faults."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from dataclasses import dataclass

import psutil
from running import RunningGateway

# Names that a library or the system draws anew: process ids, hashes, random numbers.
_DRAWN = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")
_LOGS = ".log"


@dataclass(frozen=True)
class Footprint:
    """Counts of what could be left behind.

    Attributes:
        processes: Below the gateway.
        descriptors: Files and sockets that the gateway's own process has open.
        files: Below its temporary directory, by their names without what is drawn anew.
        shared_memory: Names in /dev/shm.
    """

    processes: int
    descriptors: int
    files: Counter[str]
    shared_memory: frozenset[str]


def footprint(gateway: RunningGateway) -> Footprint:
    """Of a gateway at rest."""
    names = (path.relative_to(gateway.temporary).as_posix() for path in gateway.temporary.rglob("*"))
    files = Counter(_DRAWN.sub("#", name) for name in names if _LOGS not in name)
    shared = frozenset(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else frozenset[str]()
    own = psutil.Process(gateway.process.pid)
    return Footprint(len(gateway.descendants()), own.num_fds(), files, shared)


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
