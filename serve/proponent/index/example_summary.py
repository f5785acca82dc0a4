"""Counts of training examples: by class, and by self-influence."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from proponent.index.catalog import Catalog, Place
from proponent.index.database import Database

_KEPT = 16
_LEFT_OUT = " AND row NOT IN (SELECT value FROM json_each(:gone))"


@dataclass(frozen=True)
class ClassSummary:
    """The examples of one label; self-influence is 0 where there are none."""

    count: int = 0
    predicted_count: int = 0
    disagreeing_count: int = 0
    label_issues: int = 0
    mean_self_influence: float = 0.0
    median_self_influence: float = 0.0


@dataclass(frozen=True)
class Histogram:
    """How often self-influence has which size.

    Attributes:
        edges: Equally spaced in the logarithm from the smallest positive value to the largest; one more than bins.
        counts: Of each bin, which holds its lower edge; the last holds its upper edge too.
        zeros: Examples that have none.
    """

    edges: Sequence[float]
    counts: Sequence[int]
    zeros: int


@dataclass(frozen=True)
class ExampleSummary:
    """What is known of all examples that are not forgotten; ``classes`` in class order."""

    classes: list[ClassSummary]
    histogram: Histogram
    total: int


class Summaries:
    """Summaries of a catalog: each takes a pass over its indices, on a connection of its own, and is kept."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._found: dict[tuple[int, int, frozenset[str]], ExampleSummary] = {}

    def of(self, classes: int, bins: int, forgotten: frozenset[str]) -> ExampleSummary:
        """The summary without forgotten examples; one is made at a time."""
        key = classes, bins, forgotten
        with self._lock:
            if key not in self._found:
                if len(self._found) >= _KEPT:
                    self._found.clear()
                self._found[key] = _summary(self._catalog, *key)
            return self._found[key]


def _summary(catalog: Catalog, classes: int, bins: int, forgotten: frozenset[str]) -> ExampleSummary:
    gone = list(catalog.rows_of(sorted(forgotten)).values())
    with closing(catalog.database.again()) as database:
        by_class = _Classes(catalog, database, gone, catalog.issue_place(forgotten))
        return ExampleSummary(
            [by_class.summary(class_id) for class_id in range(classes)],
            _histogram(database, bins, gone),
            catalog.count() - len(gone),
        )


class _Classes:
    """The counts of a catalog without some rows; ``issues`` is the last place of label issues."""

    def __init__(self, catalog: Catalog, database: Database, gone: Sequence[int], issues: Place | None) -> None:
        self._database = database
        self._gone = json.dumps(gone)
        self._left_out = _LEFT_OUT if gone else ""
        entries = catalog.by_rows(gone).values()
        pairs = catalog.confusion - Counter((e.class_id, e.predicted_class_id) for e in entries)
        self._labels, self._predictions, self._agreeing = Counter[int](), Counter[int](), Counter[int]()
        for (label, predicted), count in pairs.items():
            self._labels[label] += count
            self._predictions[predicted] += count
            self._agreeing[label] += count * (label == predicted)
        self._means = self._of_class("avg(self_influence)", "TRUE")
        self._issues = self._of_class("count(*)", _ISSUE, issues) if issues else {}

    def summary(self, class_id: int) -> ClassSummary:
        """One label."""
        count = self._labels[class_id]
        return ClassSummary(
            count=count,
            predicted_count=self._predictions[class_id],
            disagreeing_count=count - self._agreeing[class_id],
            label_issues=int(self._issues.get(class_id, 0)),
            mean_self_influence=self._means.get(class_id, 0.0),
            median_self_influence=self._median(class_id, count) if count else 0.0,
        )

    def _of_class(self, what: str, condition: str, place: Place | None = None) -> dict[int, float]:
        values = {"gone": self._gone} | ({} if place is None else vars(place))
        statement = f"SELECT class_id, {what} FROM example WHERE {condition}{self._left_out} GROUP BY class_id"
        return dict(self._database.query(statement, values))

    def _median(self, class_id: int, count: int) -> float:
        values = {"gone": self._gone, "label": class_id, "skip": (count - 1) // 2, "take": 2 - count % 2}
        middle = self._database.query(
            f"SELECT self_influence FROM example WHERE class_id = :label{self._left_out} "
            "ORDER BY self_influence LIMIT :take OFFSET :skip",
            values,
        )
        return float(np.mean(middle))


_ISSUE = (
    "class_id <> predicted_class_id AND self_influence >= :self_influence "
    "AND (self_influence > :self_influence OR row <= :row)"
)


def _histogram(database: Database, bins: int, gone: Sequence[int]) -> Histogram:
    values: dict[str, object] = {"gone": json.dumps(gone)}
    left_out = _LEFT_OUT if gone else ""

    def ask(what: str, condition: str, **borders: float) -> float | None:
        statement = f"SELECT {what} FROM example WHERE {condition}{left_out}"
        found: float | None = database.query(statement, values | borders)[0][0]
        return found

    low, high = (ask(f"{end}(self_influence)", "self_influence > 0") for end in ("min", "max"))
    zeros = int(ask("count(*)", "self_influence <= 0") or 0)
    if low is None or high is None:
        return Histogram([], [], zeros)
    edges = [low, *np.geomspace(low, high, bins + 1).clip(low, high)[1:-1].tolist(), high]
    conditions = ["self_influence >= :low AND self_influence < :high"] * (bins - 1)
    conditions.append("self_influence >= :low AND self_influence <= :high")
    counts = [
        int(ask("count(*)", condition, low=one, high=other) or 0)
        for condition, (one, other) in zip(conditions, pairwise(edges), strict=True)
    ]
    return Histogram(edges, counts, zeros)
