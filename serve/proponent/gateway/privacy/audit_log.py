"""Who was told what of which training examples: an append-only file of JSON lines, rotated by its size.

Each line reaches the system before the reply leaves. Lines hold ids and the hash of the input, never inputs or
tokens. A line that cannot be written is taken back, and its reply is not sent.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import structlog

from proponent.errors import SpecError, UnavailableError

_PATIENCE_S = 5.0
_log = structlog.get_logger("proponent.audit")


class AuditLog:
    """The file, which this process alone writes; older parts are beside it as NAME.1 (the newest), NAME.2 and so on.

    Args:
        path: The file.
        most_bytes: Size from which on it is rotated.
        files: How many older parts are kept.

    Raises:
        SpecError: It cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, most_bytes: int, files: int) -> None:
        self.path = path
        self._most_bytes = most_bytes
        self._files = files
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        try:
            self._handle = _opened(path)
        except OSError as error:
            reason = "another process writes it" if error.errno in (errno.EAGAIN, errno.EACCES) else error.strerror
            raise SpecError(f"audit log {path} cannot be used: {reason}", field="audit_log") from None

    async def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record; done by a thread, so that a slow disk holds up nobody else.

        Raises:
            UnavailableError: It could not be written in time (AUDIT_LOG_FAILED).
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await loop.run_in_executor(self._thread, self._append, record)
        except (OSError, TimeoutError) as error:
            _log.error("audit log cannot be written; what would be disclosed is refused", detail=repr(error))
            message = "disclosures are logged, and the log cannot be written; predictions are answered"
            raise UnavailableError(message, reason="AUDIT_LOG_FAILED") from None

    def records(self) -> Iterator[dict[str, Any]]:
        """What the files hold, oldest first; what is no record is passed over."""
        for path in (*reversed(self._older()), self.path):
            with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    with suppress(ValueError):
                        found = json.loads(line)
                        if isinstance(found, dict):
                            yield found

    def close(self) -> None:
        """Waits for what is being written, and forces it to disk."""
        self._thread.shutdown()
        with suppress(OSError):
            os.fsync(self._handle)
        os.close(self._handle)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = (
            json.dumps({key: value() if callable(value) else value for key, value in record.items()}).encode() + b"\n"
        )
        self._reopen_if_moved()
        size = os.fstat(self._handle).st_size
        if size and size + len(line) > self._most_bytes:
            self._rotate()
            size = 0
        try:
            written = os.write(self._handle, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, size)
            raise

    def _reopen_if_moved(self) -> None:
        """Goes on in a new file where somebody moved or removed this one."""
        try:
            here = self.path.stat()
        except FileNotFoundError:
            self._replace_handle()
            return
        held = os.fstat(self._handle)
        if (here.st_dev, here.st_ino) != (held.st_dev, held.st_ino):
            self._replace_handle()

    def _rotate(self) -> None:
        os.fsync(self._handle)
        paths = [self.path, *self._older()]
        for old, new in reversed(list(pairwise(paths))):
            with suppress(FileNotFoundError):
                old.replace(new)
        self._replace_handle()

    def _replace_handle(self) -> None:
        new = _opened(self.path)
        os.close(self._handle)
        self._handle = new

    def _older(self) -> list[Path]:
        return [self.path.with_name(f"{self.path.name}.{number}") for number in range(1, self._files + 1)]


def _opened(path: Path) -> int:
    """The file, readable by this user alone, with the lock of who writes it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
