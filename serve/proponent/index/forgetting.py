"""Forgetting training examples: out of every answer at once, off the disk at compaction.

Forgetting writes a tombstone (see ``tombstones``). Compaction rewrites the current bundle and the one before
without the rows, metadata and thumbnails of all forgotten examples, makes the new ones current and previous by
one atomic change of the pointer, and removes every bundle that still holds them, unless a process reads it: such
a bundle is named in the receipt and removed by the next compaction. What stays is what no file of the bundle
tells of one example: model weights and curvature factors, which are sums over the training set. Blocks that the
file system has freed are not overwritten.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from proponent.errors import CorruptBundleError, InvalidInputError, NotFoundError
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, read_manifest, seal
from proponent.index.catalog import Catalog, CatalogEntry, write_catalog
from proponent.index.faults import fault_point
from proponent.index.lifecycle import WORK, check_bundle, list_bundles, remove_bundle
from proponent.index.lock import COMPACTION, changing, is_held
from proponent.index.row_code import write_code
from proponent.index.rows import InfluenceIndex, write_scales
from proponent.index.samples import rewrite_samples
from proponent.index.searchable import RowScales
from proponent.index.storage import storage_errors
from proponent.index.store import BUNDLES, Store
from proponent.index.tombstones import Tombstones

COPIED = (files.FACTORS, files.SPEC, files.WEIGHTS)


@dataclass(frozen=True)
class RewrittenBundle:
    """A bundle that was rewritten: digests before and after, and how many rows went."""

    before: str
    after: str
    rows_removed: int


@dataclass(frozen=True)
class Receipt:
    """What was done for a request to forget.

    Attributes:
        ids: The examples asked for, each once.
        newly_forgotten: Those that were not forgotten before.
        time: RFC 3339 UTC.
        forgotten_total: All forgotten examples of the model.
        compacted: Whether bundles were rewritten.
        bundles: The rewritten ones.
        removed: Digests of bundles that were removed from disk.
        still_on_disk: Digests of bundles that still hold rows of forgotten examples.
        in_use: Those of them that a process reads.
    """

    model: str
    ids: list[str]
    newly_forgotten: list[str]
    time: str
    forgotten_total: int
    compacted: bool = False
    bundles: list[RewrittenBundle] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    still_on_disk: list[str] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    dry_run: bool = False


def forget(
    store: Store, model: str, example_ids: Sequence[str], *, compact: bool = False, dry_run: bool = False
) -> Receipt:
    """Forgets examples; with ``compact`` also removes what the bundles hold of all forgotten ones.

    Doing it again changes nothing. A rebuild that is running does not keep an example from being forgotten, but
    it does keep bundles from being rewritten.

    Raises:
        NotFoundError: An id is in no bundle of the model and was never forgotten; nothing is changed.
        InvalidInputError: Compaction would leave a bundle without rows.
        BusyError: ``compact`` while the model is rebuilt or changed; the examples are forgotten nevertheless.
        StorageError: The disk is full or read-only.
    """
    ids = list(dict.fromkeys(example_ids))
    store.pointer(model)
    tombstones = Tombstones.open(store, model)
    _check_known(store, model, ids, tombstones.ids())
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    new = [example_id for example_id in ids if not tombstones.contains(example_id)]
    if not dry_run:
        with storage_errors(store.directory(model)):
            new = tombstones.add(ids, now)
    forgotten = tombstones.ids() | set(ids)
    receipt = Receipt(model, ids, new, now, len(forgotten), dry_run=dry_run)
    if compact and not dry_run:
        with changing(store, model):
            return _compacted(store, model, forgotten, receipt)
    holders = _holders(store, model, forgotten)
    return replace(
        receipt,
        still_on_disk=[path.name for path in holders],
        in_use=[path.name for path in holders if is_held(path)],
    )


def _check_known(store: Store, model: str, ids: Sequence[str], forgotten: Collection[str]) -> None:
    unknown = [example_id for example_id in ids if example_id not in forgotten]
    for bundle in list_bundles(store, model):
        if not unknown:
            return
        with closing(Catalog.open(bundle / files.CATALOG)) as catalog:
            known = catalog.rows_of(unknown)
        unknown = [example_id for example_id in unknown if example_id not in known]
    if unknown:
        raise NotFoundError(
            f"training examples are unknown to model {model!r}: {', '.join(map(repr, unknown[:5]))}"
            f"{', ...' if len(unknown) > 5 else ''}; nothing was forgotten",
            field="example_ids",
            reason="EXAMPLE_UNKNOWN",
        )


def _holders(store: Store, model: str, forgotten: Collection[str]) -> list[Path]:
    """Bundles with rows of forgotten examples; one that cannot be read may have them."""
    return [path for path in list_bundles(store, model) if _may_hold(path, forgotten)]


def _may_hold(bundle: Path, forgotten: Collection[str]) -> bool:
    try:
        return bool(_rows_to_drop(bundle, forgotten))
    except CorruptBundleError:
        return True


def _rows_to_drop(bundle: Path, forgotten: Collection[str]) -> list[int]:
    with closing(Catalog.open(bundle / files.CATALOG)) as catalog:
        return sorted(catalog.rows_of(sorted(forgotten)).values())


def _compacted(store: Store, model: str, forgotten: frozenset[str], receipt: Receipt) -> Receipt:
    pointer = store.pointer(model)
    rewritten: dict[str, RewrittenBundle] = {}
    for digest in dict.fromkeys([pointer["digest"], pointer.get("previous")]):
        bundle = store.directory(model) / BUNDLES / str(digest)
        drop = _rows_to_drop(bundle, forgotten) if digest and bundle.is_dir() else []
        if drop:
            check_bundle(bundle, model)
            rewritten[digest] = RewrittenBundle(digest, rewrite_without(bundle, drop).name, len(drop))
    if rewritten:
        moved = {before: change.after for before, change in rewritten.items()}
        current, previous = str(pointer["digest"]), str(pointer.get("previous") or "")
        store.point(model, moved.get(current, current), moved.get(previous, previous))
    shutil.rmtree(store.directory(model) / WORK, ignore_errors=True)
    holders = _holders(store, model, forgotten)
    held = [path for path in holders if is_held(path)]
    for path in holders:
        if path not in held:
            remove_bundle(path)
    return replace(
        receipt,
        compacted=True,
        bundles=list(rewritten.values()),
        removed=[path.name for path in holders if path not in held],
        still_on_disk=[path.name for path in held],
        in_use=[path.name for path in held],
    )


def rewrite_without(bundle: Path, rows: Sequence[int]) -> Path:
    """Writes a bundle like another one, sealed, without some rows; every other score stays what it was.

    Scores of coded rows may change by the rounding of single precision, see `CodedRows.code_without`.

    The result depends on nothing else, not even the time, so that a killed compaction leaves no second copy.

    Raises:
        InvalidInputError: No row would be left.
    """
    manifest = read_manifest(bundle)
    scratch = bundle.parents[1] / COMPACTION
    scratch.mkdir()
    index = InfluenceIndex.of_bundle(bundle, manifest)
    keep = torch.ones(len(index), dtype=torch.bool)
    keep[list(rows)] = False
    if not bool(keep.any()):
        raise InvalidInputError(f"all {len(keep)} examples of bundle {bundle.name[:12]} are forgotten: rebuild")
    index.write_without(scratch / files.ROWS, keep)
    if (code := index.code_without(keep)) is not None:
        write_code(scratch / files.CODE, code)
    scales = RowScales(**{name: column[keep] for name, column in vars(index.scales).items()})
    write_scales(scratch / files.SCALES, scales)
    with closing(Catalog.open(bundle / files.CATALOG)) as catalog:
        write_catalog(scratch / files.CATALOG, _kept_entries(catalog, set(rows)))
    if manifest.samples:
        with closing(Catalog.open(bundle / files.CATALOG)) as catalog:
            dropped = frozenset(entry.example_id for entry in catalog.by_rows(rows).values())
        rewrite_samples(bundle / files.SAMPLES, scratch / files.SAMPLES, dropped)
    fault_point("compaction.written")
    for name in COPIED:
        _link_or_copy(bundle / name, scratch / name)
    return seal(scratch, _compacted_manifest(manifest, scales, len(rows)), bundle.parent)


def _kept_entries(catalog: Catalog, drop: Collection[int]) -> Iterator[CatalogEntry]:
    kept = (entry for entry in catalog if entry.row not in drop)
    for row, entry in enumerate(kept):
        yield replace(entry, row=row)


def _compacted_manifest(manifest: Manifest, scales: RowScales, dropped: int) -> Manifest:
    return replace(
        manifest,
        omitted_rows=int((~scales.has_direction).sum()),
        forgotten_rows=manifest.forgotten_rows + dropped,
    )


def _link_or_copy(source: Path, target: Path) -> None:
    """Bundles never change, so two may share a file; where links are impossible it is copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
