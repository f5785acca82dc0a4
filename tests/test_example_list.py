"""Lists and counts of training examples are those of a plain sort and filter, and each page is found by an index."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.index import example_list
from proponent.index.catalog import SUSPECT_SHARE, Catalog, CatalogEntry, write_catalog
from proponent.index.example_list import ExampleFilter, ExampleList
from proponent.index.example_summary import Summaries
from proponent.options import OrderBy

CLASSES = 3
ENTRIES = st.lists(
    st.builds(
        CatalogEntry,
        row=st.just(0),
        example_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
        class_id=st.integers(0, CLASSES - 1),
        predicted_class_id=st.integers(0, CLASSES - 1),
        self_influence=st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e-300, 7.5e8]),
        source=st.just("s"),
        thumbnail=st.just(b"p"),
    ),
    unique_by=lambda entry: entry.example_id,
    max_size=14,
)
SOME_CLASSES = st.lists(st.integers(0, CLASSES - 1), max_size=2, unique=True).map(lambda ids: tuple(sorted(ids)))
FILTERS = st.builds(
    ExampleFilter,
    class_ids=SOME_CLASSES,
    predicted_class_ids=SOME_CLASSES,
    disagreeing=st.booleans(),
    smallest=st.sampled_from([-math.inf, 0.0, 0.5, 1.5]),
    largest=st.sampled_from([math.inf, 2.0, 0.5]),
)
KEYS = {
    OrderBy.SELF_INFLUENCE_DESCENDING: lambda entry: (-entry.self_influence, entry.row),
    OrderBy.SELF_INFLUENCE_ASCENDING: lambda entry: (entry.self_influence, -entry.row),
    OrderBy.EXAMPLE_ID: lambda entry: entry.example_id.encode(),
    OrderBy.CLASS: lambda entry: (entry.class_id, -entry.self_influence, entry.row),
}


def numbered(entries: Sequence[CatalogEntry]) -> list[CatalogEntry]:
    return [CatalogEntry(**{**vars(entry), "row": row}) for row, entry in enumerate(entries)]


def as_before(path: Path) -> None:
    """Takes away what catalogs of older bundles lack."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "DROP TABLE confusion; DROP INDEX by_class; DROP INDEX by_confusion; DROP INDEX by_disagreement"
        )


def admitted(entries: Sequence[CatalogEntry], chosen: ExampleFilter, gone: set[str]) -> list[CatalogEntry]:
    """An oracle that knows nothing of SQL."""
    return [
        entry
        for entry in entries
        if entry.example_id not in gone
        and (not chosen.class_ids or entry.class_id in chosen.class_ids)
        and (not chosen.predicted_class_ids or entry.predicted_class_id in chosen.predicted_class_ids)
        and (not chosen.disagreeing or entry.class_id != entry.predicted_class_id)
        and chosen.smallest <= entry.self_influence <= chosen.largest
    ]


def walk(
    listed: ExampleList, chosen: ExampleFilter, order: OrderBy, size: int, gone: set[str]
) -> Iterator[tuple[list[str], int]]:
    after: int | None = None
    while True:
        page = listed.page(chosen, order, size, after=after, forgotten=frozenset(gone))
        yield [entry.example_id for entry in page.entries], page.total
        if page.next is None:
            return
        after = page.next


@settings(deadline=None, max_examples=150)
@given(ENTRIES, FILTERS, st.sampled_from(OrderBy), st.integers(1, 5), st.data())
def test_pages_together_are_the_sorted_list(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[CatalogEntry],
    chosen: ExampleFilter,
    order: OrderBy,
    size: int,
    data: st.DataObject,
) -> None:
    entries = numbered(drawn)
    gone = data.draw(st.sets(st.sampled_from([e.example_id for e in entries]))) if entries else set()
    path = tmp_path_factory.mktemp("catalog") / "catalog.sqlite"
    write_catalog(path, entries)
    if data.draw(st.booleans(), label="older bundle"):
        as_before(path)
    most_runs, at_once = data.draw(st.sampled_from([(4096, 10_000), (1, 0)]), label="limits")
    expected = [entry.example_id for entry in sorted(admitted(entries, chosen, gone), key=KEYS[order])]
    with pytest.MonkeyPatch.context() as patch, closing(Catalog.open(path)) as catalog:
        patch.setattr(example_list, "MOST_RUNS", most_runs)
        patch.setattr(example_list, "SORTED", at_once)
        pages = list(walk(ExampleList(catalog), chosen, order, size, gone))
    assert [name for names, _ in pages for name in names] == expected
    assert {total for _, total in pages} == {len(expected)}
    assert all(len(names) == size for names, _ in pages[:-1])


@settings(deadline=None, max_examples=60)
@given(ENTRIES, st.integers(1, 6), st.data())
def test_a_summary_counts_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[CatalogEntry], bins: int, data: st.DataObject
) -> None:
    entries = numbered(drawn)
    gone = data.draw(st.sets(st.sampled_from([e.example_id for e in entries]))) if entries else set()
    path = tmp_path_factory.mktemp("catalog") / "catalog.sqlite"
    write_catalog(path, entries)
    left = sorted((e for e in entries if e.example_id not in gone), key=lambda e: (-e.self_influence, e.row))
    issues = {
        e.example_id
        for rank, e in enumerate(left)
        if rank / len(left) < SUSPECT_SHARE and e.class_id != e.predicted_class_id
    }
    with closing(Catalog.open(path)) as catalog:
        found = Summaries(catalog).of(CLASSES, bins, frozenset(gone))
        suspects = catalog.label_suspects(100, forgotten=gone).suspects
        place = ExampleList(catalog).issue_place(frozenset(gone))
    assert {s.example_id for s in suspects if s.is_label_issue} == issues
    assert issues == {
        e.example_id for e in left if place is not None and place.reaches(e) and e.class_id != e.predicted_class_id
    }
    assert found.total == len(left)
    for class_id, summary in enumerate(found.classes):
        own = [e for e in left if e.class_id == class_id]
        values = [e.self_influence for e in own]
        assert summary.count == len(own)
        assert summary.predicted_count == sum(e.predicted_class_id == class_id for e in left)
        assert summary.disagreeing_count == sum(e.predicted_class_id != class_id for e in own)
        assert summary.label_issues == sum(e.example_id in issues for e in own)
        assert summary.mean_self_influence == pytest.approx(np.mean(values) if values else 0.0)
        assert summary.median_self_influence == (np.median(values) if values else 0.0)
    positive = [e.self_influence for e in left if e.self_influence > 0]
    assert found.histogram.zeros == len(left) - len(positive) and sum(found.histogram.counts) == len(positive)
    if positive:
        edges = found.histogram.edges
        assert len(edges) == bins + 1 and (edges[0], edges[-1]) == (min(positive), max(positive))
        ratios = np.diff(np.log(edges))
        assert ratios == pytest.approx(np.full(bins, ratios.mean()), abs=1e-9)
        if edges[0] < edges[-1]:
            assert list(found.histogram.counts) == np.histogram(positive, edges)[0].tolist()
    else:
        assert list(found.histogram.edges) == list(found.histogram.counts) == []


PLANS = [
    (ExampleFilter(), OrderBy.SELF_INFLUENCE_DESCENDING),
    (ExampleFilter(), OrderBy.SELF_INFLUENCE_ASCENDING),
    (ExampleFilter(), OrderBy.EXAMPLE_ID),
    (ExampleFilter(), OrderBy.CLASS),
    (ExampleFilter(disagreeing=True), OrderBy.SELF_INFLUENCE_ASCENDING),
    (ExampleFilter(class_ids=(1,)), OrderBy.SELF_INFLUENCE_DESCENDING),
    (ExampleFilter(class_ids=(0, 1), smallest=2.0, largest=30.0), OrderBy.SELF_INFLUENCE_ASCENDING),
    (ExampleFilter(predicted_class_ids=(2,), disagreeing=True), OrderBy.SELF_INFLUENCE_DESCENDING),
    (ExampleFilter(class_ids=(1,), predicted_class_ids=(2,)), OrderBy.CLASS),
]


@pytest.mark.parametrize(("chosen", "order"), PLANS)
def test_no_page_reads_or_sorts_more_than_itself(tmp_path: Path, chosen: ExampleFilter, order: OrderBy) -> None:
    entries = [
        CatalogEntry(row, f"id/{row:03d}", row % 3, row // 3 % 3, float(row % 50), "s", b"") for row in range(300)
    ]
    write_catalog(tmp_path / "catalog.sqlite", entries)
    with closing(Catalog.open(tmp_path / "catalog.sqlite")) as catalog:
        listed = ExampleList(catalog)
        first = listed.page(chosen, order, 5)
        statements: list[str] = []
        catalog.database._connection.set_trace_callback(statements.append)
        listed.page(chosen, order, 5, after=first.next)
        catalog.database._connection.set_trace_callback(None)
        asked = [each.replace("Inf", "9e999") for each in statements]  # as SQLite writes what it was given
        plans = [str(catalog.database.query(f"EXPLAIN QUERY PLAN {each}")) for each in asked]
    assert len(plans) >= 2
    assert [plan for plan in plans if "TEMP B-TREE" in plan or "'SCAN example'" in plan] == []


def test_counts_are_kept_and_forgotten_examples_leave_them(tmp_path: Path) -> None:
    entries = [CatalogEntry(row, f"id/{row}", row % 3, 0, float(row), "s", b"") for row in range(30)]
    write_catalog(tmp_path / "catalog.sqlite", entries)
    chosen = ExampleFilter(class_ids=(1,), smallest=10.0)
    with closing(Catalog.open(tmp_path / "catalog.sqlite")) as catalog:
        listed = ExampleList(catalog)
        totals = [
            listed.page(chosen, OrderBy.EXAMPLE_ID, 3, forgotten=frozenset(gone)).total
            for gone in ([], ["id/10", "id/2", "id/4"], ["id/10", "id/13"], [])
        ]
    assert totals == [7, 6, 5, 7]
