"""Texts and rows as people read them, and in what a row differs from the one that was asked about."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MISSING, EMPTY = "missing", "empty"


@dataclass(frozen=True)
class Cell:
    """A value of a row, in words.

    Attributes:
        asked: What the row that was asked about has there, in words; None where that is the same, or unknown.
    """

    column: str
    value: str
    asked: str | None = None


class Content(Protocol):
    """What shows a training example."""

    @property
    def text(self) -> str:
        """The example itself where it is a text."""

    @property
    def record(self) -> Mapping[str, object] | None:
        """The example itself where it is a row."""


def is_worded(example: Content) -> bool:
    """Whether an example is a text or a row, and is shown."""
    return bool(example.text) or example.record is not None


def visible(text: str) -> str:
    r"""Untrusted text in which nothing acts or hides: control characters and marks of direction as escapes.

    >>> visible("a\u202eb\x1b[2J")
    'a\\u202eb\\x1b[2J'
    """
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def cells(
    record: Mapping[str, object], asked: Mapping[str, object] | None = None, columns: Sequence[str] = ()
) -> list[Cell]:
    """The values of a row: first those that differ from the row asked about, then the others.

    Args:
        record: Values by column; None is a missing one, and so is what one of the two rows lacks.
        asked: The row asked about; None where there is none to compare with.
        columns: The order within both parts; what it lacks follows in the order of the row asked about, then of the
            record.

    >>> found = cells({"age": 39.0, "job": "cook"}, {"age": 39, "job": None})
    >>> [(cell.column, cell.value, cell.asked) for cell in found]
    [('job', 'cook', 'missing'), ('age', '39', None)]
    """
    given = {**(asked or {}), **record}
    order = [name for name in dict.fromkeys((*columns, *given)) if name in given]
    found = [_cell(name, record.get(name), asked) for name in order]
    return sorted(found, key=lambda cell: cell.asked is None)


def _cell(column: str, value: object, asked: Mapping[str, object] | None) -> Cell:
    differs = asked is not None and asked.get(column) != value
    return Cell(column, value_text(value), value_text(asked.get(column)) if asked is not None and differs else None)


def value_text(value: object) -> str:
    """A value in words.

    >>> value_text(None), value_text(2.0), value_text(0.125), value_text(True), value_text("")
    ('missing', '2', '0.125', 'true', 'empty')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return str(value) if value != "" else EMPTY
