"""How much memory a machine has left."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Directories of control groups, the files of their limit and usage, and what files of the usage can be dropped."""


def machine_bytes() -> int:
    """Memory that the machine has, whoever uses it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int:
    """Memory that processes may still take: of the machine, or what its control group leaves.

    What holds files that were not read for a while is free, as the system gives it to whoever asks. Where it does not
    say what is free, it is what the machine has.
    """
    available = _number("MemAvailable:", _MEMINFO, machine_bytes() >> 10) << 10
    for group, limit, usage, dropped in _CGROUPS:
        try:
            left = int((group / limit).read_text()) - int((group / usage).read_text())
            available = min(available, left + _number(dropped, group / "memory.stat", 0))
        except (OSError, ValueError):
            continue  # no such group, or no limit ("max")
    return available


def _number(name: str, file: Path, default: int) -> int:
    """What a file says of a name, one a line, if it does."""
    if not file.exists():
        return default
    found = re.search(rf"^{name}\s+(\d+)", file.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) if found else default
