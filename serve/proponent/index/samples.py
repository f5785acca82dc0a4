"""Held-out inputs that a bundle keeps, each whole and with the lists that explain it: a SQLite file, read-only.

A list is what Explain gives for the predicted class of its sample, the strongest examples first, ``depth`` of them at
most. Forgotten examples are taken out and the rest moves up; a list that was cut off at the depth is then whole only
as far as it still goes, which bounds the length that can be asked for.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from proponent.errors import CorruptBundleError
from proponent.index.database import Database
from proponent.options import Measure, Side

DEPTH = 50
"""Length of the lists that a rebuild keeps."""

_SCHEMA = """
CREATE TABLE depth (depth INTEGER NOT NULL) STRICT;
CREATE TABLE sample (
  position INTEGER PRIMARY KEY,
  sample_id TEXT NOT NULL UNIQUE,
  class_id INTEGER NOT NULL,
  predicted_class_id INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  thumbnail BLOB NOT NULL,
  shape TEXT NOT NULL,
  input BLOB NOT NULL
) STRICT;
CREATE TABLE influence (
  measure TEXT NOT NULL,
  position INTEGER NOT NULL,
  side TEXT NOT NULL,
  rank INTEGER NOT NULL,
  example_id TEXT NOT NULL,
  score REAL NOT NULL,
  PRIMARY KEY (measure, position, side, rank)
) STRICT, WITHOUT ROWID;
"""
_BARE = "position, sample_id, class_id, predicted_class_id, sha256"
_WHOLE = f"{_BARE}, thumbnail, shape, input"
_PREVIEW = """iif(shape LIKE '{"form": "text"%' OR shape LIKE '{"form": "record"%', input, x'')"""


class StoredInfluence(NamedTuple):
    """A training example in a list; the score is signed, as in an Influence."""

    example_id: str
    score: float


SampleLists = Mapping[Measure, Mapping[Side, Sequence[StoredInfluence]]]
"""The lists of one sample, strongest first."""


@dataclass(frozen=True)
class Sample:
    """A held-out input.

    Attributes:
        position: In the list of samples, from 0.
        class_id: Of its label.
        predicted_class_id: What the bundle's model says.
        sha256: Of the input's content, whatever file format holds it.
        thumbnail: PNG, or empty where it was not asked for or the input is no picture.
        shape: Of the tensor; empty where the input is something else.
        input: The input in bytes, see ``form``; empty where it was not asked for.
        form: What the bytes are: "image", a PNG file; "text", UTF-8; "record", a JSON object; "tensor", little-endian
            values of ``dtype``; "tensors", a serialised NamedTensors of the proto.
        dtype: Of the tensor.
    """

    position: int
    sample_id: str
    class_id: int
    predicted_class_id: int
    sha256: str
    thumbnail: bytes = b""
    shape: tuple[int, ...] = ()
    input: bytes = field(default=b"", repr=False)
    form: str = "image"
    dtype: str = "float32"


def write_samples(path: Path, samples: Iterable[tuple[Sample, SampleLists]], depth: int = DEPTH) -> None:
    """Writes a new file; samples and lists are taken one at a time."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        connection.execute("INSERT INTO depth VALUES (?)", (depth,))
        for sample, lists in samples:
            values = {**vars(sample), "shape": json.dumps(_written(sample))}
            names = ", ".join(f":{name}" for name in _WHOLE.split(", "))
            connection.execute(f"INSERT INTO sample ({_WHOLE}) VALUES ({names})", values)
            connection.executemany("INSERT INTO influence VALUES (?, ?, ?, ?, ?, ?)", _rows(sample.position, lists))


def rewrite_samples(source: Path, target: Path, forgotten: frozenset[str]) -> None:
    """Writes the same samples with lists that name none of the forgotten examples."""
    with closing(Samples.open(source)) as samples:
        lists = {measure: samples.lists(measure, forgotten) for measure in Measure}
        depth = min(found.depth for found in lists.values())
        write_samples(
            target,
            (
                (sample, {measure: _cut(lists[measure].of(sample.position), depth) for measure in Measure})
                for sample in samples
            ),
            depth,
        )


@dataclass(frozen=True)
class ListsOfMeasure:
    """The lists of all samples under one measure.

    Attributes:
        depth: Largest length to which every list is whole.
    """

    depth: int
    by_position: Mapping[int, Mapping[Side, Sequence[StoredInfluence]]]

    def of(self, position: int) -> Mapping[Side, Sequence[StoredInfluence]]:
        """Both lists of one sample."""
        return self.by_position.get(position, {side: () for side in Side})


class Samples:
    """Read-only access to a file of samples; may be used from several threads, which take turns."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._depth, self._size = database.query("SELECT depth, (SELECT count(*) FROM sample) FROM depth")[0]
        self._known: dict[Measure, tuple[frozenset[str], ListsOfMeasure]] = {}

    @classmethod
    def open(cls, path: Path) -> Samples:
        """Opens the file ``samples.sqlite`` of a bundle.

        Raises:
            CorruptBundleError: The file is missing or holds something else.
        """
        database = Database.open(path, "file of samples")
        try:
            return cls(database)
        except IndexError:
            database.close()
            raise CorruptBundleError(f"file of samples has no depth: {path}", field=path.name) from None
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __len__(self) -> int:
        return int(self._size)

    def __iter__(self) -> Iterator[Sample]:
        """All samples whole, one at a time; for one thread alone."""
        for row in self._database.stream(f"SELECT {_WHOLE} FROM sample ORDER BY position"):
            yield _sample(row)

    def page(self, limit: int, after: int = -1, *, thumbnails: bool = False) -> list[Sample]:
        """The samples behind a position, without their inputs; ``thumbnails`` come with texts and records."""
        columns = _BARE + (f", thumbnail, shape, {_PREVIEW}" if thumbnails else "")
        found = self._database.query(
            f"SELECT {columns} FROM sample WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
        )
        return [_sample(row) if thumbnails else Sample(*row) for row in found]

    def get(self, sample_id: str) -> Sample | None:
        """A sample whole, or None."""
        found = self._database.query(f"SELECT {_WHOLE} FROM sample WHERE sample_id = ?", (sample_id,))
        return _sample(found[0]) if found else None

    def lists(self, measure: Measure, forgotten: frozenset[str] = frozenset()) -> ListsOfMeasure:
        """The lists of all samples under a measure, without forgotten examples; kept for the next call."""
        known = self._known.get(measure)
        if known is None or known[0] != forgotten:
            known = self._known[measure] = forgotten, self._read(measure, forgotten)
        return known[1]

    def _read(self, measure: Measure, forgotten: frozenset[str]) -> ListsOfMeasure:
        rows = self._database.query(
            "SELECT position, side, example_id, score FROM influence WHERE measure = ? ORDER BY position, side, rank",
            (measure.value,),
        )
        depth = self._depth
        lists: dict[int, dict[Side, Sequence[StoredInfluence]]] = {}
        for (position, side), group in groupby(rows, key=itemgetter(0, 1)):
            whole = [StoredInfluence(example_id, score) for _, _, example_id, score in group]
            left = [one for one in whole if one.example_id not in forgotten]
            depth = min(depth, len(left)) if len(whole) >= self._depth else depth
            lists.setdefault(position, {each: () for each in Side})[Side(side)] = left
        return ListsOfMeasure(depth, lists)


def _rows(position: int, lists: SampleLists) -> Iterator[tuple[str, int, str, int, str, float]]:
    for measure, sides in lists.items():
        for side, influences in sides.items():
            for rank, one in enumerate(influences, start=1):
                yield measure.value, position, side.value, rank, one.example_id, one.score


def _cut(sides: Mapping[Side, Sequence[StoredInfluence]], depth: int) -> Mapping[Side, Sequence[StoredInfluence]]:
    return {side: influences[:depth] for side, influences in sides.items()}


def _sample(row: Sequence[object]) -> Sample:
    found = Sample(*row)  # type: ignore[arg-type]
    form = json.loads(str(found.shape))
    if isinstance(form, list):
        return replace(found, shape=tuple(form), form="tensor" if form else "image")
    return replace(found, shape=tuple(form["shape"]), form=form["form"], dtype=form["dtype"])


def _written(sample: Sample) -> object:
    """What the column ``shape`` holds: as it always was of images and of float32, else all that is to be known."""
    if sample.form == "image" or (sample.form == "tensor" and sample.dtype == "float32" and sample.shape):
        return sample.shape
    return {"form": sample.form, "shape": sample.shape, "dtype": sample.dtype}
