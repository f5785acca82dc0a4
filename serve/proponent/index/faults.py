"""Named points at which a test kills the process, to see what a crash there leaves behind.

``PROPONENT_FAULT=name`` ends the process at that point as ``kill -9`` would: no ``finally``, no flush.
``PROPONENT_FAULT_TRACE=file`` writes down the points that are passed. Without them a point does nothing.
"""

from __future__ import annotations

import os

FAULT = "PROPONENT_FAULT"
TRACE = "PROPONENT_FAULT_TRACE"
KILLED = 137


def fault_point(name: str) -> None:
    """Passes the point ``name``, or dies there."""
    trace = os.environ.get(TRACE)
    if trace:
        with open(trace, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    if os.environ.get(FAULT) == name:
        os._exit(KILLED)
