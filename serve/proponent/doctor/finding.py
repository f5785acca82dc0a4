"""What one check found, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.Enum):
    """How a check ended; only a failure keeps the service from running as it was asked to."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name.
        found: A sentence.
        remedy: What to do; empty where nothing is to be done.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """The service runs, but not as one may expect."""
    return Finding(check, Status.WARNING, found, remedy)


def failure(check: str, found: str, remedy: str) -> Finding:
    """The service does not run, or not for everything that was asked of it."""
    return Finding(check, Status.FAILURE, found, remedy)
