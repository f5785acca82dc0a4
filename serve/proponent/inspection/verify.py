"""Is a bundle what it says: every file by its checksum, its tables by their shapes, a sample by its model.

A file that changes after a process has mapped it is out of reach of any check made at loading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from proponent.errors import CorruptBundleError, MismatchError, NotFoundError, ProponentError, SpecError
from proponent.explainer import Explainer
from proponent.explainer.query import EmbeddedQuery
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, damage, read_manifest
from proponent.index.catalog import Catalog
from proponent.index.rows import InfluenceIndex
from proponent.index.samples import Samples
from proponent.index.searchable import SearchableRows
from proponent.options import Measure, Target
from proponent.rebuild.training_set import TrainingSet
from proponent.stages import Stopwatch

TOLERANCE = 1.0e-2
"""Largest distance of a recomputed unit row from the stored one, and relative difference of the norms: well above
what fp16, another batch size or another device do, well below what another example or another model does."""
_BATCH = 64


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file of a bundle."""

    file: str
    message: str


@dataclass(frozen=True)
class Verification:
    """What a check found.

    Attributes:
        rescored: Training examples whose row was computed again from the model and the dataset.
        skipped: Why none was, or empty.
    """

    bundle: str
    digest: str
    problems: list[Problem] = field(default_factory=list)
    rescored: int = 0
    skipped: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(bundle: Path, *, sample: int = 64, seed: int = 0) -> Verification:
    """Checks a bundle; ``sample`` examples are embedded again, 0 leaves model and dataset alone.

    Raises:
        CorruptBundleError: The manifest itself is damaged: it says what all else must be.
    """
    manifest = read_manifest(bundle)
    problems = [Problem(error.field, error.message) for error in damage(bundle, manifest)]
    problems = problems or [Problem(error.field, error.message) for error in _inconsistencies(bundle, manifest)]
    skipped = (
        f"rows are distilled from {manifest.teachers} teachers: no one model gives them" if manifest.teachers else ""
    )
    found = Verification(str(bundle), manifest.digest, problems, skipped=skipped)
    return found if problems or skipped or not sample else _rescored(bundle, found, sample, seed)


def _inconsistencies(bundle: Path, manifest: Manifest) -> Iterator[CorruptBundleError]:
    """Contradictions between files that are all as they were written."""
    with closing(Catalog.open(bundle / files.CATALOG)) as catalog:
        labels = torch.tensor(catalog.labels())
    index = InfluenceIndex.of_bundle(bundle, manifest)
    if not len(labels) == len(index) == manifest.train_size - manifest.forgotten_rows:
        yield CorruptBundleError(
            f"catalog has {len(labels)} examples and the index {len(index)} rows, expected "
            f"{manifest.train_size - manifest.forgotten_rows}",
            field=files.CATALOG,
        )
    if bool((labels < 0).any() | (labels >= len(manifest.class_names)).any()):
        yield CorruptBundleError("a label of the catalog is not a class of the manifest", field=files.CATALOG)
    for name, column in vars(index.scales).items():
        if not bool(torch.isfinite(column).all()):
            yield CorruptBundleError(f"column {name} of the scales is not finite", field=files.SCALES)
    yield from _bad_rows(index)
    if manifest.samples:
        yield from _bad_samples(bundle, manifest)


def _bad_rows(index: InfluenceIndex) -> Iterator[CorruptBundleError]:
    for place, rows in index.blocks():
        norms, wanted = rows.norm(dim=1).cpu(), (index.scales.norms[place] > 0).float()
        bad = ((norms - wanted).abs() > TOLERANCE).nonzero().flatten()
        if len(bad) or not bool(torch.isfinite(norms).all()):
            yield CorruptBundleError(f"rows from {place.start} on are not unit rows", field=files.ROWS)
            return


def _bad_samples(bundle: Path, manifest: Manifest) -> Iterator[CorruptBundleError]:
    with (
        closing(Samples.open(bundle / files.SAMPLES)) as samples,
        closing(Catalog.open(bundle / files.CATALOG)) as catalog,
    ):
        if len(samples) != manifest.samples:
            message = f"there are {len(samples)} samples, expected {manifest.samples}"
            yield CorruptBundleError(message, field=files.SAMPLES)
        named = {
            one.example_id
            for measure in Measure
            for sides in samples.lists(measure).by_position.values()
            for listed in sides.values()
            for one in listed
        }
        unknown = sorted(named - catalog.rows_of(sorted(named)).keys())
        if unknown:
            yield CorruptBundleError(f"a list names {unknown[0]!r}, which the catalog lacks", field=files.SAMPLES)


def _rescored(bundle: Path, found: Verification, sample: int, seed: int) -> Verification:
    try:
        explainer = Explainer.load(bundle)
        data = TrainingSet.open(explainer.classifier, explainer.classifier.spec.dataset)
    except MismatchError as error:
        return Verification(found.bundle, found.digest, [Problem(error.field, error.message)])
    except (NotFoundError, SpecError) as error:
        return Verification(found.bundle, found.digest, skipped=error.message)
    positions = {data.example_id(position): position for position in range(len(data))}
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(explainer.index), generator=generator)[:sample].sort().values.tolist()
    problems = [
        problem
        for start in range(0, len(rows), _BATCH)
        for problem in _differences(explainer, data, positions, rows[start : start + _BATCH])
    ]
    return Verification(found.bundle, found.digest, problems, rescored=len(rows))


def _differences(
    explainer: Explainer, data: TrainingSet, positions: Mapping[str, int], rows: list[int]
) -> Iterator[Problem]:
    entries = explainer.catalog.by_rows(rows)
    known = [row for row in rows if entries[row].example_id in positions]
    for row in sorted(set(rows) - set(known)):
        yield Problem(files.CATALOG, f"example {entries[row].example_id!r} is not in the dataset")
    items = [data.item(positions[entries[row].example_id]) for row in known]
    targets = [Target(entries[row].class_id) for row in known]
    queries = explainer.embed([tensor for _, tensor, _ in items], targets, Stopwatch()) if known else []
    for row, (_, _, label), query in zip(known, items, queries, strict=True):
        name = entries[row].example_id
        if label != entries[row].class_id:
            yield Problem(files.CATALOG, f"example {name!r} has label {label} in the dataset")
        elif isinstance(query, ProponentError) or _differs(explainer.index, row, query):
            yield Problem(files.ROWS, f"row {row} of example {name!r} is not what the model gives")


def _differs(index: SearchableRows, row: int, query: EmbeddedQuery) -> bool:
    stored: Tensor = index.unit_rows([row])[0].cpu()
    norm = float(index.scales.norms[row])
    if norm == 0 or not query.has_direction:
        return (norm == 0) != (query.norm == 0)
    return bool((stored - query.direction.cpu()).norm() > TOLERANCE) or abs(query.norm - norm) > TOLERANCE * norm
