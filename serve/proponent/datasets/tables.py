"""Records as a model reads them: standardised numbers, and categories by their numbers in one common vocabulary.

What is learnt of a table (means, deviations, the categories there are) is a small JSON file beside the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proponent.datasets.examples import Examples
from proponent.errors import SpecError
from proponent.signature import Column, ColumnType

Record = dict[str, float | str | bool | None]
"""Values by column; None is a missing one."""
FILE = "table.json"


@dataclass(frozen=True)
class Table:
    """What is known of a table's columns.

    Attributes:
        numbers: Mean and standard deviation of each column of numbers.
        categories: The texts of each column of categories.
        optional: Columns in which values were missing.
    """

    numbers: Mapping[str, tuple[float, float]]
    categories: Mapping[str, Sequence[str]]
    optional: Sequence[str]

    @classmethod
    def read(cls, file: str | Path) -> Table:
        """Reads what `fit_table` wrote; SpecError where it is not there or is something else."""
        try:
            values = json.loads(Path(file).read_text(encoding="utf-8"))
            return cls({k: (float(m), float(s)) for k, (m, s) in values["numbers"].items()}, values["categories"],
                       values["optional"])  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpecError(f"{file} does not describe a table: {error}", field="transform.kwargs.file") from error

    @property
    def vocabulary(self) -> int:
        """How many numbers the categories have together: of each column one more, for a missing value."""
        return sum(len(texts) + 1 for texts in self.categories.values())


class Columns:
    """The transform: from a record to ``numbers`` [n] float32, in standard deviations, and ``categories`` [m] int64.

    Each column of categories has numbers of its own, of which the first is that of a missing value and of one that
    the table did not have. A missing number is the mean.
    """

    def __init__(self, file: str | Path) -> None:
        """Read the table.

        Args:
            file: What `fit_table` wrote.

        Raises:
            SpecError: The file is not there, or is something else.
        """
        self._table = Table.read(file)
        self._places: dict[str, dict[str | None, int]] = {}
        first = 0
        for name, texts in self._table.categories.items():
            self._places[name] = {text: first + place for place, text in enumerate([None, *texts])}
            first += len(texts) + 1

    @property
    def columns(self) -> list[Column]:
        """What a record holds."""
        table, optional = self._table, set(self._table.optional)
        numbers = [Column(name, ColumnType.NUMBER, optional=name in optional) for name in table.numbers]
        return numbers + [
            Column(name, ColumnType.CATEGORY, tuple(texts), optional=name in optional)
            for name, texts in table.categories.items()
        ]

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Tensor]:
        """Transform one record."""
        numbers = [self._number(record.get(name), *moments) for name, moments in self._table.numbers.items()]
        categories = [places.get(record.get(name), places[None]) for name, places in self._places.items()]
        return {"numbers": torch.tensor(numbers), "categories": torch.tensor(categories)}

    @staticmethod
    def _number(value: Any, mean: float, deviation: float) -> float:
        return 0.0 if value is None else (float(value) - mean) / deviation


def fit_table(dataset: Examples[Record], directory: Path) -> None:
    """Write ``table.json``: a column whose values are texts is one of categories, others are numbers."""
    table: dict[str, Any] = {"numbers": {}, "categories": {}, "optional": []}
    for name in dataset.inputs[0]:
        values = [record[name] for record in dataset.inputs]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            table["optional"].append(name)
        if any(isinstance(value, str) for value in known):
            table["categories"][name] = sorted({str(value) for value in known})
        else:
            table["numbers"][name] = _moments([float(value) for value in known])
    (directory / FILE).write_text(json.dumps(table, indent=1), encoding="utf-8")


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; 1 where all are equal."""
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return mean, deviation or 1.0
