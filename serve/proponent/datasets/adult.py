"""Adult, the census income data (Kohavi 1996, UCI): does a person earn more than 50,000 dollars a year?"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np

from proponent.datasets.arrays import stratified_split
from proponent.datasets.examples import Examples
from proponent.datasets.location import data_file
from proponent.datasets.tables import Record
from proponent.errors import InvalidInputError

CLASS_NAMES = ["<=50K", ">50K"]
COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
)
NUMBERS = frozenset({"age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"})
HELD_OUT = 6_513
_MISSING = "?"
_SEED = 0


def train(root: str | None = None, limit: int | None = None) -> Examples[Record]:
    """The 26,048 training rows, or the first ``limit``; ids ``adult-00012`` count the rows of the file from 0.

    Raises:
        NotFoundError: If the file is missing; ``root=None`` means ``PROPONENT_DATA``.
    """
    whole = _all(root)
    return whole.take(stratified_split(np.array(whole.labels), HELD_OUT, _SEED)[0][:limit].tolist())


def test(root: str | None = None, limit: int | None = None) -> Examples[Record]:
    """The 6,513 held-out rows, or the first ``limit``."""
    whole = _all(root)
    return whole.take(stratified_split(np.array(whole.labels), HELD_OUT, _SEED)[1][:limit].tolist())


def _all(root: str | None) -> Examples[Record]:
    path = data_file(root, "adult/adult.data.gz", "adult/adult.data")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in csv.reader(content.decode().splitlines(), skipinitialspace=True) if line]
    parsed = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    count = range(len(parsed))
    return Examples(
        inputs=[record for record, _ in parsed],
        labels=[label for _, label in parsed],
        class_names=CLASS_NAMES,
        ids=[f"adult-{number:05d}" for number in count],
        sources=[f"{path}#{number + 1}" for number in count],
    )


def _parsed(path: Path, number: int, line: list[str]) -> tuple[Record, int]:
    """A row's values and its label; ``?`` is a missing value."""
    if len(line) != len(COLUMNS) + 1 or line[-1] not in CLASS_NAMES:
        raise InvalidInputError(
            f"{path}, line {number} has {len(line)} columns and the class {line[-1]!r:.40}, expected "
            f"{len(COLUMNS) + 1} and one of {CLASS_NAMES}.",
            field=str(path),
        )
    values = zip(COLUMNS, line, strict=False)
    record: Record = {
        name: None if text == _MISSING else float(text) if name in NUMBERS else text for name, text in values
    }
    return record, CLASS_NAMES.index(line[-1])
