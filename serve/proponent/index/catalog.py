"""What is known of every training example, by stable id: a SQLite file, read-only when served."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from proponent.index.database import Database
from proponent.index.paging import bad_token, page_token, token_parts
from proponent.results import Scalar

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
CREATE TABLE confusion (
  class_id INTEGER NOT NULL,
  predicted_class_id INTEGER NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (class_id, predicted_class_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE content (
  row INTEGER PRIMARY KEY,
  text TEXT NOT NULL,
  record TEXT NOT NULL
) STRICT;
CREATE INDEX by_self_influence ON example (self_influence DESC, row);
"""
# Made when all rows are there, which is faster.
_ONCE_FILLED = (
    "INSERT INTO confusion SELECT class_id, predicted_class_id, count(*) FROM example GROUP BY 1, 2",
    "CREATE INDEX by_class ON example (class_id, self_influence)",
    "CREATE INDEX by_confusion ON example (class_id, predicted_class_id, self_influence DESC, row)",
    "CREATE INDEX by_disagreement ON example (self_influence DESC, row, class_id) "
    "WHERE class_id <> predicted_class_id",
)
_COLUMNS = "row, example_id, class_id, predicted_class_id, self_influence, source"
_VALUES = ", ".join(f":{name}" for name in (*_COLUMNS.split(", "), "thumbnail"))
_WIDTH = len(_COLUMNS.split(", ")) + 1
_LONGEST_NUMBER = 18
SUSPECT_SHARE = 0.1
LONGEST_TEXT = 2_000
"""Characters of a text that are kept; longer ones are cut, with a mark behind them."""


@dataclass(frozen=True)
class CatalogEntry:
    """One training example, and what shows it: empty where it was not asked for or not kept.

    Attributes:
        thumbnail: PNG.
        text: Of an example that is a text.
        record: Values by column, of an example that is a row of a table; None is a missing one.
    """

    row: int
    example_id: str
    class_id: int
    predicted_class_id: int
    self_influence: float
    source: str
    thumbnail: bytes = b""
    text: str = ""
    record: Mapping[str, Scalar] | None = None


@dataclass(frozen=True)
class Place:
    """Where a page of suspects begins: behind an example of this self-influence and row.

    Attributes:
        self_influence: Of the last example before the page.
        row: Its row.
        rank: How many examples come before the page.
    """

    self_influence: float
    row: int
    rank: int

    def reaches(self, entry: CatalogEntry) -> bool:
        """Whether an example stands at the place or before it."""
        return (-entry.self_influence, entry.row) <= (-self.self_influence, self.row)

    def token(self, digest: str) -> str:
        """The place in the list of one bundle, as text for callers, who may not be told the self-influence."""
        return page_token(digest, self.rank, self.row)


_TOP = Place(math.inf, -1, 0)


@dataclass(frozen=True)
class Page:
    """Some suspects, how many examples are ranked, and where the next page begins; None after the last one."""

    suspects: list[Suspect]
    total: int
    next: Place | None


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
    """Writes a new catalog file, rows in any order."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        for entry in entries:
            connection.execute(f"INSERT INTO example ({_COLUMNS}, thumbnail) VALUES ({_VALUES})", vars(entry))
            if entry.text or entry.record is not None:
                values = entry.row, entry.text, _json(entry.record)
                connection.execute("INSERT INTO content VALUES (?, ?, ?)", values)
        for statement in _ONCE_FILLED:
            connection.execute(statement)


def _json(record: Mapping[str, Scalar] | None) -> str:
    return "" if record is None else json.dumps(record, ensure_ascii=False)


class Catalog:
    """Read-only access to a catalog file; may be used from several threads, which take turns.

    Attributes:
        counted: Whether the file has the table and the indices for lists by label and prediction; bundles written
            before these do not, so that such lists take a pass over all examples.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.counted = database.has("confusion")
        self.has_contents = database.has("content")
        size = "sum(count) FROM confusion" if self.counted else "count(*) FROM example"
        self._size = int(database.query(f"SELECT {size}")[0][0] or 0)

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Opens a catalog that never changes.

        Raises:
            CorruptBundleError: The file is missing or no such catalog.
        """
        database = Database.open(path, "catalog")
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self.database.close()

    def count(self) -> int:
        """Number of examples."""
        return self._size

    @cached_property
    def confusion(self) -> Counter[tuple[int, int]]:
        """How many examples have which label and prediction."""
        counts = "count FROM confusion" if self.counted else "count(*) FROM example GROUP BY 1, 2"
        found = self.database.query(f"SELECT class_id, predicted_class_id, {counts}")
        return Counter({(label, predicted): count for label, predicted, count in found})

    def get(self, example_id: str) -> CatalogEntry | None:
        """The example with what shows it, or None."""
        found = self.database.query(f"{self._whole} WHERE example_id = ?", (example_id,))
        return _entry(found[0]) if found else None

    def by_rows(self, rows: Sequence[int], *, contents: bool = False) -> dict[int, CatalogEntry]:
        """The examples of the given row numbers; with ``contents`` also what shows them."""
        select = self._whole if contents else f"SELECT {_COLUMNS} FROM example"
        found = self.database.lookup(f"{select} WHERE row IN", list(dict.fromkeys(rows)))
        return {values[0]: _entry(values) for values in found}

    def rows_of(self, example_ids: Sequence[str]) -> dict[str, int]:
        """Row numbers of the ids that exist."""
        found = self.database.lookup(
            "SELECT example_id, row FROM example WHERE example_id IN", list(dict.fromkeys(example_ids))
        )
        return {name: row for name, row in found}

    def labels(self) -> list[int]:
        """Training label of every row, in row order."""
        return [label for (label,) in self.database.query("SELECT class_id FROM example ORDER BY row")]

    def label_suspects(
        self, limit: int, *, after: Place | None = None, offset: int = 0, forgotten: Collection[str] = ()
    ) -> Page:
        """A page of suspects, most suspicious first: from ``after`` on, or from rank ``offset`` on.

        Forgotten examples take no part: neither in the list nor in any rank.
        """
        gone = list(self.rows_of(sorted(forgotten)).values())
        total = self._size - len(gone)
        begin = after or (self._place(offset, gone) if offset else _TOP)
        if begin is None:
            return Page([], total, None)
        entries = self._ranked(limit, begin, gone)
        suspects = [_suspect(entry, begin.rank + place, total) for place, entry in enumerate(entries)]
        rank = begin.rank + len(entries)
        more = rank < total and len(entries) == limit
        return Page(suspects, total, Place(entries[-1].self_influence, entries[-1].row, rank) if more else None)

    def place_of(self, token: str, digest: str) -> Place:
        """The place that a token names.

        Raises:
            InvalidInputError: It is not a token, or belongs to another bundle.
        """
        rank, row = token_parts(token, digest, 2)
        if not all(part.isascii() and part.isdigit() and len(part) <= _LONGEST_NUMBER for part in (rank, row)):
            raise bad_token()
        found = self.database.query("SELECT self_influence FROM example WHERE row = ?", (int(row),))
        if not found or not int(rank):
            raise bad_token()
        return Place(found[0][0], int(row), int(rank))

    def issue_place(self, forgotten: Collection[str] = ()) -> Place | None:
        """The last place whose example is a label issue if the model disagrees with its label; None: no place is."""
        gone = list(self.rows_of(sorted(forgotten)).values())
        total = self._size - len(gone)
        count = next(
            (n for n in range(int(SUSPECT_SHARE * total), total + 1) if n / max(total, 1) >= SUSPECT_SHARE), 0
        )
        return self._place(count, gone) if count else None

    @property
    def _whole(self) -> str:
        """Selects examples with what shows them."""
        columns = f"SELECT {_COLUMNS}, thumbnail"
        if not self.has_contents:
            return f"{columns} FROM example"
        return f"{columns}, ifnull(text, ''), ifnull(record, '') FROM example LEFT JOIN content USING (row)"

    def _ranked(self, limit: int, after: Place, gone: Sequence[int]) -> list[CatalogEntry]:
        """Examples by descending self-influence, then row, from behind a key: first those of the same value."""
        select = f"SELECT {_COLUMNS} FROM example WHERE row NOT IN (SELECT value FROM json_each(?)) AND"
        left_out, value = json.dumps(gone), after.self_influence
        ties = f"{select} self_influence = ? AND row > ? ORDER BY row LIMIT ?"
        found = self.database.query(ties, (left_out, value, after.row, limit))
        rest = f"{select} self_influence < ? ORDER BY self_influence DESC, row LIMIT ?"
        found += self.database.query(rest, (left_out, value, limit - len(found)))
        return [CatalogEntry(*entry) for entry in found]

    def _place(self, offset: int, gone: Sequence[int]) -> Place | None:
        """The place behind so many examples, found in the index alone; None where there are fewer."""
        found = self.database.query(
            "SELECT self_influence, row FROM example WHERE row NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY self_influence DESC, row LIMIT 1 OFFSET ?",
            (json.dumps(gone), offset - 1),
        )
        return Place(found[0][0], found[0][1], offset) if found else None

    def __iter__(self) -> Iterator[CatalogEntry]:
        """All examples with what shows them, by row."""
        for values in self.database.stream(f"{self._whole} ORDER BY row"):
            yield _entry(values)


def _entry(values: Sequence[Any]) -> CatalogEntry:
    """An example from the columns of ``example``, and those of ``content`` where they were read."""
    if len(values) <= _WIDTH:
        return CatalogEntry(*values)
    record = json.loads(values[-1]) if values[-1] else None
    return CatalogEntry(*(*values[:-1], record))


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
