"""Exit codes of the command line, by kind of error."""

from __future__ import annotations

from proponent.errors import BusyError, CorruptBundleError, MismatchError, NotFoundError, ProponentError, StorageError

USAGE = 2
NOT_FOUND = 3
DAMAGED = 4
BUSY = 5
STORAGE = 6
GATE = 7

HELP = (
    "Exit codes: 0 done; 2 bad input or another error; 3 unknown model, bundle, example or file; 4 a bundle is "
    "damaged or does not fit its model; 5 another rebuild or change is running; 6 the disk is full or read-only; "
    "7 a gate (--fail-below) failed."
)
_CODES: tuple[tuple[type[ProponentError], int], ...] = (
    (CorruptBundleError, DAMAGED),
    (MismatchError, DAMAGED),
    (NotFoundError, NOT_FOUND),
    (BusyError, BUSY),
    (StorageError, STORAGE),
)


def exit_code(error: ProponentError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)
