"""Failures of the disk as errors that say so: full, read-only, too large a file, unreadable."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from proponent.errors import StorageError, UnavailableError

_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}
_SQLITE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


def unreadable(error: OSError) -> UnavailableError:
    """The error of a bundle that the system does not let this process read."""
    return UnavailableError(f"bundle cannot be read: {error}", reason="BUNDLE_UNREADABLE")


@contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turns what libraries raise when a write fails into a StorageError that names the directory."""
    try:
        yield
    except (OSError, sqlite3.Error, SafetensorError, RuntimeError) as error:
        if not _is_storage(error, directory):
            raise
        raise StorageError(f"cannot write below {directory}: {error}", field=str(directory)) from error


def _is_storage(error: Exception, directory: Path) -> bool:
    if isinstance(error, OSError):
        # A failing write names no file; a file elsewhere does not concern this directory.
        inside = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(directory)
        return error.errno in _ERRNOS and inside
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE
    text = str(error)
    if isinstance(error, SafetensorError):
        return "os error" in text.lower()
    return "faiss" in text and ("write error" in text or ("could not open" in text and "for writing" in text))
