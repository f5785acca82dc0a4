"""A log of bounded size that takes what other processes print."""

from __future__ import annotations

import asyncio
from pathlib import Path

_LARGEST = 4 << 20
_CHUNK = 1 << 16


class RotatingLog:
    """A file that is set aside when it is full; of those before it, one is kept.

    Args:
        path: The file, with a suffix.
        largest: Bytes from which on it is full.
    """

    def __init__(self, path: Path, largest: int = _LARGEST) -> None:
        self._path = path
        self._largest = largest
        self._file = path.open("ab", buffering=0)

    async def take(self, stream: asyncio.StreamReader) -> None:
        """Writes all that comes, until the other end is closed."""
        while chunk := await stream.read(_CHUNK):
            self.write(chunk)

    def write(self, chunk: bytes) -> None:
        """Appends to the file; what a full disk does not take is lost."""
        try:
            if self._file.tell() > self._largest:
                self._file.close()
                self._path.replace(self._path.with_suffix(f".1{self._path.suffix}"))
                self._file = self._path.open("ab", buffering=0)
            self._file.write(chunk)
        except OSError:
            return

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
