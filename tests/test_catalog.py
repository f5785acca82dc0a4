"""The catalog gives back exactly what was written, by row, by id and by self-influence, and notices damage."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.errors import CorruptBundleError, InvalidInputError
from proponent.index.catalog import Catalog, CatalogEntry, Page, Place, write_catalog

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT
ENTRIES = st.lists(
    st.builds(
        CatalogEntry,
        row=st.just(0),
        example_id=TEXT,
        class_id=INT64,
        predicted_class_id=INT64,
        self_influence=st.floats(allow_nan=False),
        source=TEXT,
        thumbnail=st.binary(max_size=50),
        text=TEXT,
        record=st.none() | st.dictionaries(TEXT, SCALARS, max_size=3),
    ),
    unique_by=lambda entry: entry.example_id,
    max_size=12,
)


def numbered(entries: Sequence[CatalogEntry]) -> list[CatalogEntry]:
    return [CatalogEntry(**{**vars(entry), "row": row}) for row, entry in enumerate(entries)]


def bare(entry: CatalogEntry) -> CatalogEntry:
    return CatalogEntry(**{**vars(entry), "thumbnail": b"", "text": "", "record": None})


def plain(count: int) -> list[CatalogEntry]:
    return [CatalogEntry(row, f"id/{row}", row % 3, 1, float(row % 5), f"s{row}", b"p") for row in range(count)]


def opened(directory: Path, entries: Sequence[CatalogEntry]) -> closing[Catalog]:
    write_catalog(directory / "catalog.sqlite", entries)
    return closing(Catalog.open(directory / "catalog.sqlite"))


@settings(deadline=None, max_examples=60)
@given(ENTRIES, st.randoms(use_true_random=False))
def test_every_entry_comes_back_whatever_it_holds(entries: list[CatalogEntry], random: object) -> None:
    expected = numbered(entries)
    shuffled = list(expected)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory), shuffled) as catalog:
        assert catalog.count() == len(expected)
        assert list(catalog) == expected
        assert catalog.labels() == [entry.class_id for entry in expected]
        assert [catalog.get(entry.example_id) for entry in expected] == expected
        assert catalog.rows_of([e.example_id for e in shuffled]) == {e.example_id: e.row for e in expected}
        assert catalog.by_rows([e.row for e in shuffled], contents=True) == dict(enumerate(expected))
        assert catalog.by_rows([e.row for e in shuffled]) == dict(enumerate(map(bare, expected)))
        ranked = sorted(expected, key=lambda e: (-e.self_influence, e.row))
        assert [s.example_id for s in catalog.label_suspects(100).suspects] == [e.example_id for e in ranked]


def test_a_catalog_from_before_texts_were_kept_still_shows_the_rest(tmp_path: Path) -> None:
    expected = plain(3)
    write_catalog(tmp_path / "catalog.sqlite", expected)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as older, older:
        older.execute("DROP TABLE content")
    with closing(Catalog.open(tmp_path / "catalog.sqlite")) as catalog:
        assert list(catalog) == expected
        assert catalog.get("id/1") == expected[1]
        assert catalog.by_rows([2], contents=True) == {2: expected[2]}


def test_more_keys_than_one_statement_takes_are_looked_up(tmp_path: Path) -> None:
    with opened(tmp_path, plain(1201)) as catalog:
        catalog.database._connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)  # what older SQLites take
        rows = [*range(1200, -1, -1), 5, 5]
        assert sorted(catalog.by_rows(rows)) == list(range(1201))
        assert len(catalog.rows_of([f"id/{row}" for row in rows])) == 1201


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    with opened(tmp_path, plain(3)) as catalog:
        assert catalog.get("id/3") is None
        assert catalog.by_rows([]) == catalog.by_rows([7]) == {}
        assert catalog.rows_of(["id/3", "id/1", "' OR 1=1 --"]) == {"id/1": 1}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, -1.5, 2.0, 1e300, float("inf"), float("-inf")]), max_size=20),
    st.sets(st.integers(0, 19)),
    st.integers(1, 7),
)
def test_pages_have_no_gaps_and_no_repeats(values: list[float], gone: set[int], limit: int) -> None:
    """Ties, infinities and forgotten examples included; by token as by offset."""
    entries = [CatalogEntry(row, f"id/{row}", 0, 1, value, "") for row, value in enumerate(values)]
    forgotten = [f"id/{row}" for row in gone]
    left = [entry for entry in entries if entry.row not in gone]
    expected = [entry.example_id for entry in sorted(left, key=lambda e: (-e.self_influence, e.row))]
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory), entries) as catalog:
        found, after, scores = [], None, []
        while True:
            page = catalog.label_suspects(limit, after=after, forgotten=forgotten)
            by_offset = catalog.label_suspects(limit, offset=len(found), forgotten=forgotten)
            assert by_offset == page and page.total == len(expected)
            found += [suspect.example_id for suspect in page.suspects]
            scores += [suspect.label_score for suspect in page.suspects]
            if page.next is None:
                break
            after = catalog.place_of(page.next.token("f" * 64), "f" * 64)
            assert after == page.next
    assert found == expected and scores == [place / len(expected) for place in range(len(expected))]


def test_an_offset_beyond_the_end_is_an_empty_page(tmp_path: Path) -> None:
    with opened(tmp_path, plain(3)) as catalog:
        for offset in (3, 4, 2**63 - 1):
            assert catalog.label_suspects(2, offset=offset) == Page([], 3, None)


@pytest.mark.parametrize("token", ["x", "é", "AAAA", "=", "a" * 255, "\ud800", " "])
def test_what_is_no_token_is_refused(token: str, tmp_path: Path) -> None:
    with opened(tmp_path, plain(3)) as catalog, pytest.raises(InvalidInputError) as caught:
        catalog.place_of(token, "f" * 64)
    assert (caught.value.field, caught.value.reason) == ("page_token", "PAGE_TOKEN_INVALID")


def test_a_token_belongs_to_one_bundle(tmp_path: Path) -> None:
    with opened(tmp_path, plain(3)) as catalog, pytest.raises(InvalidInputError, match="begin again") as caught:
        catalog.place_of(Place(0.5, 2, 4).token("e" * 64), "f" * 64)
    assert caught.value.reason == "PAGE_TOKEN_STALE"


def test_a_token_holds_no_self_influence() -> None:
    """Callers of the lower levels of disclosure get one too."""
    assert Place(0.1, 2, 4).token("e" * 64) == Place(0.2, 2, 4).token("e" * 64)


@given(st.binary(max_size=60))
def test_a_forged_token_is_a_place_or_refused(content: bytes) -> None:
    token = base64.urlsafe_b64encode(b"f" * 16 + b" " + content).decode()
    with (
        tempfile.TemporaryDirectory() as directory,
        opened(Path(directory), plain(3)) as catalog,
        contextlib.suppress(InvalidInputError),
    ):
        place = catalog.place_of(token, "f" * 64)
        assert place.rank > 0 and 0 <= place.row < 3


def test_a_page_is_found_by_its_key_and_an_offset_in_the_index_alone(tmp_path: Path) -> None:
    """However far down the list: no other plan than these two."""
    statements: list[str] = []
    with opened(tmp_path, plain(50)) as catalog:
        catalog.database._connection.set_trace_callback(statements.append)
        catalog.label_suspects(5, offset=20)
        plans = [catalog.database.query(f"EXPLAIN QUERY PLAN {each}") for each in statements]
        searched = [step[3] for plan in plans for step in plan if " example" in step[3]]
    assert searched == [
        "SCAN example USING COVERING INDEX by_self_influence",
        "SEARCH example USING INDEX by_self_influence (self_influence=? AND row>?)",
        "SEARCH example USING INDEX by_self_influence (self_influence<?)",
    ]


def test_threads_take_turns(tmp_path: Path) -> None:
    with opened(tmp_path, plain(2000)) as catalog, ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda offset: catalog.label_suspects(50, offset=offset), range(0, 1900, 50)))
    assert len({suspect.example_id for page in pages for suspect in page.suspects}) == 1900


def test_two_examples_of_one_id_are_refused(tmp_path: Path) -> None:
    twice = [CatalogEntry(row, "same", 0, 0, 0.0, "") for row in range(2)]
    with pytest.raises(sqlite3.IntegrityError):
        write_catalog(tmp_path / "catalog.sqlite", twice)


def test_a_served_catalog_cannot_be_written(tmp_path: Path) -> None:
    with opened(tmp_path, plain(3)) as catalog, pytest.raises(CorruptBundleError, match="readonly"):
        catalog.database.query("DELETE FROM example")


def test_a_missing_catalog_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptBundleError, match=f"catalog not found: {tmp_path}/catalog.sqlite"):
        Catalog.open(tmp_path / "catalog.sqlite")


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to hold a header" * 99])
def test_what_is_no_catalog_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(content)
    with pytest.raises(CorruptBundleError, match=f"catalog cannot be read: {tmp_path}/catalog.sqlite") as caught:
        Catalog.open(tmp_path / "catalog.sqlite")
    assert (caught.value.field, caught.value.reason) == ("catalog.sqlite", "BUNDLE_CORRUPT")


def test_a_catalog_damaged_behind_its_header_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    write_catalog(path, plain(2000))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(CorruptBundleError, match="catalog cannot be read"), closing(Catalog.open(path)) as catalog:
        list(catalog)
