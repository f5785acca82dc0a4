"""What is known of every training example, by stable id: a SQLite file, read-only when served."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proponent.errors import CorruptBundleError

_SCHEMA = """
CREATE TABLE example (
  row INTEGER PRIMARY KEY,
  example_id TEXT NOT NULL UNIQUE,
  class_id INTEGER NOT NULL,
  predicted_class_id INTEGER NOT NULL,
  self_influence REAL NOT NULL,
  source TEXT NOT NULL,
  thumbnail BLOB NOT NULL
) STRICT;
CREATE INDEX by_self_influence ON example (self_influence DESC, row);
"""
_COLUMNS = "row, example_id, class_id, predicted_class_id, self_influence, source"
_BATCH = 500
SUSPECT_SHARE = 0.1


@dataclass(frozen=True)
class CatalogEntry:
    """One training example; ``thumbnail`` is a PNG, or empty where it was not asked for or not kept."""

    row: int
    example_id: str
    class_id: int
    predicted_class_id: int
    self_influence: float
    source: str
    thumbnail: bytes = b""


@dataclass(frozen=True)
class Suspect:
    """A training example as a suspect of a wrong label, columns named as cleanlab names them.

    Attributes:
        is_label_issue: The model disagrees with the label, and the self-influence is among the highest tenth
            (``SUSPECT_SHARE``) of all examples. Both are needed: outliers have a high self-influence too.
        label_score: Share of the examples with a higher rank, 0 <= score < 1; lower is more suspicious.
        given_class_id: The training label.
        predicted_class_id: What the model says.
        self_influence: g_i^T C^-1 g_i.
    """

    example_id: str
    is_label_issue: bool
    label_score: float
    given_class_id: int
    predicted_class_id: int
    self_influence: float


def write_catalog(path: Path, entries: Iterable[CatalogEntry]) -> None:
    """Writes a new catalogue file, rows in any order."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        connection.executemany(
            "INSERT INTO example VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    e.row,
                    e.example_id,
                    e.class_id,
                    e.predicted_class_id,
                    e.self_influence,
                    e.source,
                    e.thumbnail,
                )
                for e in entries
            ),
        )


class Catalog:
    """Read-only access to a catalogue file; may be used from several threads, one at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Opens a catalogue that never changes.

        Raises:
            CorruptBundleError: The file is missing or no such catalogue.
        """
        if not path.is_file():
            raise CorruptBundleError(f"catalogue not found: {path}", field=path.name)
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        catalog = cls(connection, path)
        try:
            catalog.count()
        except BaseException:
            connection.close()
            raise
        return catalog

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def count(self) -> int:
        """Number of examples."""
        return int(self._query("SELECT count(*) FROM example")[0][0])

    def get(self, example_id: str) -> CatalogEntry | None:
        """The example with its thumbnail, or None."""
        found = self._query(f"SELECT {_COLUMNS}, thumbnail FROM example WHERE example_id = ?", (example_id,))
        return CatalogEntry(*found[0]) if found else None

    def by_rows(self, rows: Sequence[int], *, thumbnails: bool = False) -> dict[int, CatalogEntry]:
        """The examples of the given row numbers."""
        columns = _COLUMNS + (", thumbnail" if thumbnails else "")
        found = self._lookup(f"SELECT {columns} FROM example WHERE row IN", list(dict.fromkeys(rows)))
        return {entry[0]: CatalogEntry(*entry) for entry in found}

    def rows_of(self, example_ids: Sequence[str]) -> dict[str, int]:
        """Row numbers of the ids that exist."""
        found = self._lookup(
            "SELECT example_id, row FROM example WHERE example_id IN", list(dict.fromkeys(example_ids))
        )
        return {name: row for name, row in found}

    def labels(self) -> list[int]:
        """Training label of every row, in row order."""
        return [label for (label,) in self._query("SELECT class_id FROM example ORDER BY row")]

    def suspects(self, limit: int, offset: int = 0) -> list[CatalogEntry]:
        """Examples by descending self-influence."""
        found = self._query(
            f"SELECT {_COLUMNS} FROM example ORDER BY self_influence DESC, row LIMIT ? OFFSET ?",
            (limit, offset),
        )
        return [CatalogEntry(*entry) for entry in found]

    def label_suspects(
        self, limit: int, offset: int = 0, forgotten: Collection[str] = ()
    ) -> tuple[list[Suspect], int]:
        """Suspects from rank ``offset`` on, most suspicious first, and how many examples are ranked.

        Forgotten examples take no part: neither in the list nor in any rank.
        """
        total = self.count() - len(self.rows_of(sorted(forgotten)))
        ranked = self.suspects(offset + limit + len(forgotten))
        kept = [entry for entry in ranked if entry.example_id not in forgotten]
        return [_suspect(e, place, total) for place, e in enumerate(kept[: offset + limit])][offset:], total

    def __iter__(self) -> Iterator[CatalogEntry]:
        """All examples with thumbnails, by row."""
        for entry in self._connection.execute(f"SELECT {_COLUMNS}, thumbnail FROM example ORDER BY row"):
            yield CatalogEntry(*entry)

    def _lookup(self, select: str, keys: Sequence[object]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            found += self._query(f"{select} ({', '.join('?' * len(part))})", part)
        return found

    def _query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise CorruptBundleError(
                f"catalogue cannot be read: {self._path}: {error}", field=self._path.name
            ) from error


def _suspect(entry: CatalogEntry, place: int, total: int) -> Suspect:
    score = place / total
    return Suspect(
        example_id=entry.example_id,
        is_label_issue=entry.predicted_class_id != entry.class_id and score < SUSPECT_SHARE,
        label_score=score,
        given_class_id=entry.class_id,
        predicted_class_id=entry.predicted_class_id,
        self_influence=entry.self_influence,
    )
