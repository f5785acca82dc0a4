"""A SQLite file of a bundle, read-only: it never changes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from proponent.bounds.cancellation import checkpoint
from proponent.errors import CorruptBundleError

_BATCH = 500
Row = tuple[Any, ...]


class Database:
    """May be used from several threads, which take turns; ``kind`` names the file's content in errors."""

    def __init__(self, connection: sqlite3.Connection, path: Path, kind: str) -> None:
        self._connection = connection
        self._path = path
        self._kind = kind
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, kind: str) -> Database:
        """Opens a file.

        Raises:
            CorruptBundleError: It is missing or cannot be opened.
        """
        if not path.is_file():
            raise CorruptBundleError(f"{kind} not found: {path}", field=path.name)
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            return cls(sqlite3.connect(uri, uri=True, check_same_thread=False), path, kind)
        except sqlite3.Error as error:
            raise CorruptBundleError(f"{kind} cannot be opened: {path}: {error}", field=path.name) from error

    def again(self) -> Database:
        """Another connection to the same file: what takes long there holds nobody up here."""
        return Database.open(self._path, self._kind)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def query(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """All rows that a statement gives; raises CorruptBundleError where the file is damaged."""
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise CorruptBundleError(
                f"{self._kind} cannot be read: {self._path}: {error}", field=self._path.name
            ) from error

    def lookup(self, select: str, keys: Sequence[object]) -> list[Row]:
        """The rows of any number of keys; ``select`` ends in ``IN``."""
        found: list[Row] = []
        for start in range(0, len(keys), _BATCH):
            checkpoint()
            part = keys[start : start + _BATCH]
            found += self.query(f"{select} ({', '.join('?' * len(part))})", part)
        return found

    def has(self, table: str) -> bool:
        """Whether the file has a table or an index of this name: bundles written before it existed do not."""
        return bool(self.query("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)))

    def stream(self, statement: str) -> Iterator[Row]:
        """Rows one by one; for one thread alone."""
        yield from self._connection.execute(statement)
