"""The training examples on a page: suspects, self-influence, classes, and who appears in most lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from proponent.display.audit_plots import self_influence_plot
from proponent.display.columns import Column
from proponent.index.bundle import CATALOG, read_manifest
from proponent.index.catalog import Catalog, CatalogEntry, Suspect
from proponent.index.example_summary import ClassSummary, Summaries
from proponent.index.tombstones import Tombstones

_BINS = 40
_FREQUENT = 12


@dataclass(frozen=True)
class ShownSuspect:
    """A suspect with its picture; ``place`` counts from 1."""

    place: int
    suspect: Suspect
    entry: CatalogEntry


@dataclass(frozen=True)
class Frequent:
    """Which examples the proponents' lists of one method named.

    Attributes:
        slots: Places in all lists together.
        distinct: Different examples in them.
        most: The most frequent examples and the number of lists that name them.
    """

    method: str
    slots: int
    distinct: int
    most: Sequence[tuple[CatalogEntry, int]]


@dataclass(frozen=True)
class DataView:
    """What a page says of the training examples.

    Attributes:
        classes: By class name.
        total: How many there are.
        issues: How many are label issues.
    """

    names: Sequence[str]
    suspects: list[ShownSuspect]
    offset: int
    total: int
    issues: int
    histogram: Markup
    classes: list[tuple[str, ClassSummary]]
    frequent: list[Frequent]


class Frequencies:
    """Counts the examples of lists as they are made."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, columns: Iterable[Column]) -> None:
        """Counts the proponents of one input."""
        for column in columns:
            found = self._counts.setdefault(column.method.name, Counter())
            found.update(row.example.example_id for row in column.proponents)

    def most(self, catalog: Catalog) -> list[Frequent]:
        """The most frequent examples of each method; equally frequent ones by their ids."""
        return [_frequent(method, counts, catalog) for method, counts in self._counts.items()]


def data_view(
    bundle: Path, suspects: Sequence[Suspect], offset: int = 0, frequencies: Frequencies | None = None
) -> DataView:
    """The training examples of a bundle, with suspects that begin behind ``offset`` others."""
    names, forgotten = read_manifest(bundle).class_names, Tombstones.beside(bundle).ids()
    with closing(Catalog.open(bundle / CATALOG)) as catalog:
        summary = Summaries(catalog).of(len(names), _BINS, forgotten)
        return DataView(
            names=names,
            suspects=_shown(suspects, catalog, offset),
            offset=offset,
            total=summary.total,
            issues=sum(one.label_issues for one in summary.classes),
            histogram=self_influence_plot(**vars(summary.histogram)),
            classes=list(zip(names, summary.classes, strict=True)),
            frequent=frequencies.most(catalog) if frequencies else [],
        )


def _shown(suspects: Sequence[Suspect], catalog: Catalog, offset: int) -> list[ShownSuspect]:
    entries = _entries(catalog, [suspect.example_id for suspect in suspects])
    return [ShownSuspect(place, s, entries[s.example_id]) for place, s in enumerate(suspects, start=offset + 1)]


def _frequent(method: str, counts: Counter[str], catalog: Catalog) -> Frequent:
    most = sorted(counts, key=lambda name: (-counts[name], name))[:_FREQUENT]
    entries = _entries(catalog, most)
    return Frequent(method, counts.total(), len(counts), [(entries[name], counts[name]) for name in most])


def _entries(catalog: Catalog, ids: Sequence[str]) -> dict[str, CatalogEntry]:
    """Examples with their thumbnails, by id."""
    rows = catalog.rows_of(ids)
    found = catalog.by_rows(list(rows.values()), contents=True)
    return {name: found[row] for name, row in rows.items()}
