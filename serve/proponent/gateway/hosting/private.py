"""The gateway's private directory: only its user can enter it, and none outlives its gateway for long.

Its lock is held for as long as the gateway lives. A directory whose lock is free belonged to a gateway that was
killed together with the watchdog that would have removed it; the next gateway does so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from proponent.errors import SpecError, StorageError

PREFIX = "proponent-gateway-"
# A Unix socket's path has at most 103 bytes on macOS and 107 on Linux; a worker cannot listen on a longer one.
_LONGEST_SOCKET = 103
TEMPORARY = "t"
"""Directory of sockets and of what workers set aside, below the private one; its name is short for their sake."""
_SOCKET = Path(TEMPORARY) / ".ts.sock.99999"
# By it a directory is known for a gateway's.
_MARK = "gateway"
LIVENESS = "liveness"
"""Directory of the ticket table and the heartbeats, below the private one."""


@contextmanager
def private_directory() -> Iterator[Path]:
    """A new directory for the length of a block, below /tmp if paths of sockets were too long below TMPDIR.

    Raises:
        SpecError: They are too long there as well.
        StorageError: The directory cannot be made or filled.
    """
    try:
        parent = _parent()
        sweep(parent)
        root, handle = _locked_directory(parent)
    except OSError as error:
        raise StorageError(f"cannot make a temporary directory (see TMPDIR): {error}", field="TMPDIR") from error
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(handle)


def sweep(parent: Path) -> list[Path]:
    """Removes what killed gateways of this user left in a directory; returns it."""
    return [root for root in parent.glob(f"{PREFIX}*") if _is_abandoned(root)]


def _is_abandoned(root: Path) -> bool:
    """Whether a gateway's directory had no gateway any more, and was removed."""
    with suppress(OSError):
        if root.stat().st_uid != os.geteuid() or not (root / _MARK).is_file():
            return False
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root, ignore_errors=True)
            return True
        finally:
            os.close(handle)
    return False


def _parent() -> Path:
    for parent in (tempfile.gettempdir(), "/tmp"):
        longest = Path(parent) / f"{PREFIX}12345678" / _SOCKET
        if len(os.fsencode(longest)) <= _LONGEST_SOCKET:
            return Path(parent)
    raise SpecError(f"path of the temporary directory is too long for sockets: {longest}", field="TMPDIR")


def _locked_directory(parent: Path) -> tuple[Path, int]:
    """The lock comes before the file by which another gateway would take the directory for an abandoned one."""
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (root / _MARK).touch()
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        os.close(handle)
        raise
    return root, handle
