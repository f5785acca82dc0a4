"""Lists of training examples under filters and in an order, page by page.

A page begins behind an example and is found by keys of an index, so that it costs the same wherever it is. Labels and
predictions are filtered by reading one run of an index for each pair of them that may appear, and merging.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from proponent.index.catalog import Catalog, CatalogEntry, Place
from proponent.index.database import Database, Row
from proponent.options import OrderBy

# More runs than that are read as one list, of which some examples are passed over.
MOST_RUNS = 4096
# As many examples are sorted by their ids at once.
SORTED = 10_000
_COUNTS = 256
_LAST = 1 << 62


@dataclass(frozen=True)
class ExampleFilter:
    """Which examples are listed; no classes mean all of them.

    Attributes:
        disagreeing: Whether only those are that the model classifies otherwise than they are labelled.
        smallest: Least self-influence, itself included.
        largest: Greatest self-influence, itself included.
    """

    class_ids: tuple[int, ...] = ()
    predicted_class_ids: tuple[int, ...] = ()
    disagreeing: bool = False
    smallest: float = -math.inf
    largest: float = math.inf

    @property
    def by_class(self) -> bool:
        """Whether labels or predictions are restricted."""
        return bool(self.class_ids or self.predicted_class_ids)

    def admits_pair(self, label: int, predicted: int) -> bool:
        """Whether examples of a label and a prediction may appear."""
        return (
            (not self.class_ids or label in self.class_ids)
            and (not self.predicted_class_ids or predicted in self.predicted_class_ids)
            and not (self.disagreeing and label == predicted)
        )

    def admits(self, entry: CatalogEntry) -> bool:
        """Whether an example may appear."""
        return self.smallest <= entry.self_influence <= self.largest and self.admits_pair(
            entry.class_id, entry.predicted_class_id
        )


@dataclass(frozen=True)
class _Run:
    """Examples that one condition selects, which an index holds in the order of self-influence."""

    condition: str
    values: tuple[object, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class ExamplePage:
    """Some examples, how many match in all, and the row of the last one where more follow."""

    entries: list[CatalogEntry]
    total: int
    next: int | None


@dataclass(frozen=True)
class _Forgotten:
    ids: frozenset[str] = frozenset()
    entries: dict[int, CatalogEntry] = field(default_factory=dict)


class ExampleList:
    """The examples of a catalog; counts, which may take long, are made on connections of their own, and kept."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._counts: dict[ExampleFilter, int] = {}
        self._forgotten = _Forgotten()
        self._issues: tuple[frozenset[str], Place | None] | None = None

    def page(
        self,
        chosen: ExampleFilter,
        order: OrderBy,
        limit: int,
        *,
        after: int | None = None,
        forgotten: frozenset[str] = frozenset(),
        contents: bool = False,
    ) -> ExamplePage:
        """A page of the examples that a filter admits.

        Args:
            chosen: The filter.
            order: Of the list.
            limit: Most examples on the page.
            after: Row of the example that the page comes behind; None begins.
            forgotten: Ids that take no part.
            contents: Whether the entries are to hold what shows them.

        Raises:
            KeyError: There is no such row.
        """
        gone = self._gone(forgotten)
        total = self._total(chosen) - sum(map(chosen.admits, gone.values()))
        last = None if after is None else self._catalog.by_rows([after])[after]
        rows = self._rows(chosen, order, limit + 1, last, gone, total) if total > 0 else []
        entries = self._catalog.by_rows(rows[:limit], contents=contents)
        return ExamplePage([entries[row] for row in rows[:limit]], total, rows[limit - 1] if rows[limit:] else None)

    def issue_place(self, forgotten: frozenset[str] = frozenset()) -> Place | None:
        """The last place of label issues, see ``Catalog.issue_place``; kept."""
        known = self._issues
        if known is None or known[0] != forgotten:
            known = self._issues = forgotten, self._catalog.issue_place(forgotten)
        return known[1]

    def _gone(self, ids: frozenset[str]) -> dict[int, CatalogEntry]:
        """The forgotten examples that the catalog holds, by row."""
        known = self._forgotten
        if ids != known.ids:
            rows = list(self._catalog.rows_of(sorted(ids)).values())
            known = self._forgotten = _Forgotten(ids, self._catalog.by_rows(rows))
        return known.entries

    def _total(self, chosen: ExampleFilter) -> int:
        """Examples that a filter admits, the forgotten ones included."""
        if chosen.smallest == -math.inf and chosen.largest == math.inf:
            return sum(n for pair, n in self._catalog.confusion.items() if chosen.admits_pair(*pair))
        count = self._counts.get(chosen)
        if count is None:
            with closing(self._catalog.database.again()) as database:
                count = sum(_count(database, run, chosen) for run in self._runs(chosen))
            if len(self._counts) >= _COUNTS:
                self._counts.clear()
            self._counts[chosen] = count
        return count

    def _runs(self, chosen: ExampleFilter, label: int | None = None) -> list[_Run]:
        """The runs of an index that together hold what a filter admits, of one label or of all."""
        if label is None and not chosen.by_class:
            return [_Run("class_id <> predicted_class_id" if chosen.disagreeing else "TRUE")]
        pairs = [
            pair for pair in sorted(self._catalog.confusion) if label in (None, pair[0]) and chosen.admits_pair(*pair)
        ]
        if self._catalog.counted and len(pairs) <= MOST_RUNS:
            return [_Run("class_id = ? AND predicted_class_id = ?", pair, (pair,)) for pair in pairs]
        return [_Run(*_condition(chosen, label), pairs=tuple(pairs))]

    def _rows(
        self,
        chosen: ExampleFilter,
        order: OrderBy,
        limit: int,
        last: CatalogEntry | None,
        gone: dict[int, CatalogEntry],
        total: int,
    ) -> list[int]:
        if order is OrderBy.EXAMPLE_ID:
            return self._by_id(chosen, limit, last, gone, total)
        if order is OrderBy.CLASS:
            return self._by_class(chosen, limit, last, gone)
        ascending = order is OrderBy.SELF_INFLUENCE_ASCENDING
        return self._merged(self._runs(chosen), chosen, limit, last, gone, ascending=ascending)

    def _by_class(
        self, chosen: ExampleFilter, limit: int, last: CatalogEntry | None, gone: dict[int, CatalogEntry]
    ) -> list[int]:
        labels = sorted(
            {label for label, predicted in self._catalog.confusion if chosen.admits_pair(label, predicted)}
        )
        found: list[int] = []
        for label in labels:
            if len(found) >= limit or (last is not None and label < last.class_id):
                continue
            begin = last if last is not None and label == last.class_id else None
            found += self._merged(self._runs(chosen, label), chosen, limit - len(found), begin, gone)
        return found

    def _merged(
        self,
        runs: Sequence[_Run],
        chosen: ExampleFilter,
        limit: int,
        last: CatalogEntry | None,
        gone: dict[int, CatalogEntry],
        *,
        ascending: bool = False,
    ) -> list[int]:
        """The first rows of all runs behind an example, by self-influence."""
        found: list[Row] = []
        for run in runs:
            room = limit + _hidden(run, gone)
            found += (row for row in self._run(run, chosen, room, last, ascending=ascending) if row[1] not in gone)
        sign = 1 if ascending else -1
        found.sort(key=lambda row: (sign * row[0], -sign * row[1]))
        return [row for _, row in found[:limit]]

    def _run(
        self, run: _Run, chosen: ExampleFilter, limit: int, last: CatalogEntry | None, *, ascending: bool
    ) -> list[Row]:
        """Self-influence and row of the first examples of a run behind one: first those of its own self-influence."""
        value = last.self_influence if last else chosen.smallest if ascending else chosen.largest
        row = last.row if last else _LAST if ascending else -1
        order, ties, rest, end = (
            (
                "self_influence, row DESC",
                "row < ? ORDER BY row DESC",
                "self_influence > ? AND self_influence <= ?",
                chosen.largest,
            )
            if ascending
            else (
                "self_influence DESC, row",
                "row > ? ORDER BY row",
                "self_influence < ? AND self_influence >= ?",
                chosen.smallest,
            )
        )
        select = f"SELECT self_influence, row FROM example WHERE {run.condition} AND"
        query = self._catalog.database.query
        found = query(f"{select} self_influence = ? AND {ties} LIMIT ?", (*run.values, value, row, limit))
        if len(found) < limit:
            statement = f"{select} {rest} ORDER BY {order} LIMIT ?"
            found += query(statement, (*run.values, value, end, limit - len(found)))
        return found

    def _by_id(
        self,
        chosen: ExampleFilter,
        limit: int,
        last: CatalogEntry | None,
        gone: dict[int, CatalogEntry],
        total: int,
    ) -> list[int]:
        """Few examples are sorted by their ids; of many, the ids are read in order and some passed over."""
        begin = last.example_id if last else ""
        if chosen != ExampleFilter() and total <= SORTED:
            rows = self._merged(self._runs(chosen), chosen, total, None, gone)
            entries = sorted(self._catalog.by_rows(rows).values(), key=lambda entry: entry.example_id)
            return [entry.row for entry in entries if last is None or entry.example_id > begin][:limit]
        condition, values = _condition(chosen, None, indexed=False)
        found = self._catalog.database.query(
            f"SELECT row FROM example WHERE example_id {'>' if last else '>='} ? AND {condition} "
            "AND +self_influence BETWEEN ? AND ? ORDER BY example_id LIMIT ?",
            (begin, *values, chosen.smallest, chosen.largest, limit + len(gone)),
        )
        return [row for (row,) in found if row not in gone][:limit]


def _count(database: Database, run: _Run, chosen: ExampleFilter) -> int:
    statement = f"SELECT count(*) FROM example WHERE {run.condition} AND self_influence BETWEEN ? AND ?"
    return int(database.query(statement, (*run.values, chosen.smallest, chosen.largest))[0][0])


def _condition(chosen: ExampleFilter, label: int | None, *, indexed: bool = True) -> tuple[str, tuple[object, ...]]:
    """A filter of labels and predictions as SQL; not ``indexed``, so that no index of them is followed."""
    mark = "" if indexed else "+"
    wanted = {
        "class_id": chosen.class_ids if label is None else (label,),
        "predicted_class_id": chosen.predicted_class_ids,
    }
    parts = [f"{mark}{name} IN (SELECT value FROM json_each(?))" for name, ids in wanted.items() if ids]
    parts += ["class_id <> predicted_class_id"] if chosen.disagreeing else []
    return " AND ".join(parts) or "TRUE", tuple(json.dumps(sorted(ids)) for ids in wanted.values() if ids)


def _hidden(run: _Run, gone: dict[int, CatalogEntry]) -> int:
    """At most how many of a run are forgotten."""
    if not run.pairs or not gone:
        return len(gone)
    return sum((entry.class_id, entry.predicted_class_id) in run.pairs for entry in gone.values())
