"""Publish, roll back and collect bundles. Every change is one atomic rename, and can be tried without effect."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from proponent.errors import CorruptBundleError, InvalidInputError, NotFoundError
from proponent.index.bundle import flush, is_digest, read_manifest, verify_files
from proponent.index.faults import fault_point
from proponent.index.lock import TRASH, changing, is_held
from proponent.index.store import BUNDLES, Store

WORK = "work"
SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class Change:
    """What became (or, in a dry run, would become) of the pointer of a model; digests.

    Attributes:
        seconds: Until a running gateway answered with the bundle; None where none did.
    """

    model: str
    before: str | None
    after: str
    dry_run: bool
    seconds: float | None = None


@dataclass(frozen=True)
class GarbageCollectionResult:
    """What a garbage collection removed (or would remove); digests, and bytes freed."""

    model: str
    removed: list[str]
    in_use: list[str]
    kept: list[str]
    workspace: bool
    bytes: int
    dry_run: bool


def require_model(store: Store, model: str) -> None:
    """Raises NotFoundError where the store knows no such model; nothing is made for it."""
    if not (store.directory(model) / BUNDLES).is_dir():
        raise NotFoundError(
            f"no model {model!r} in {store.root} (models: {', '.join(store.models()) or 'none'})", field="model"
        )


def list_bundles(store: Store, model: str) -> list[Path]:
    """All bundles of a model on disk, whole or damaged, by digest."""
    directory = store.directory(model) / BUNDLES
    return sorted(path for path in directory.glob("*") if is_digest(path.name))


def find_bundle(store: Store, model: str, digest: str) -> Path:
    """The bundle whose digest begins so.

    Raises:
        NotFoundError: None or several do, or fewer than four digits were given.
    """
    known = list_bundles(store, model)
    found = [path for path in known if path.name.startswith(digest)] if len(digest) >= SHORTEST_PREFIX else []
    if len(found) != 1:
        listed = ", ".join(path.name[:12] for path in known) or "none"
        raise NotFoundError(
            f"digest {digest!r} names {len(found)} bundles of model {model!r}, expected one of {listed}",
            field="digest",
        )
    return found[0]


def make_current(store: Store, model: str, digest: str, *, dry_run: bool = False) -> Change:
    """Makes a bundle current after checking every file of it.

    Raises:
        NotFoundError: No such bundle.
        CorruptBundleError: It is damaged; nothing is changed.
        BusyError, StorageError: See ``changing``.
    """
    require_model(store, model)
    if dry_run:
        return _make_current(store, model, digest, dry_run=True)
    with changing(store, model):
        return _make_current(store, model, digest, dry_run=False)


def rollback(store: Store, model: str, *, dry_run: bool = False) -> Change:
    """Makes the bundle current that was so before; doing it twice undoes it.

    Raises:
        NotFoundError: There is none, or it is gone.
        CorruptBundleError: It is damaged; nothing is changed.
        BusyError, StorageError: See ``changing``.
    """
    require_model(store, model)
    if dry_run:
        return _make_current(store, model, previous_digest(store, model), dry_run=True)
    with changing(store, model):
        return _make_current(store, model, previous_digest(store, model), dry_run=False)


def collect(store: Store, model: str, *, workspace: bool = False, dry_run: bool = False) -> GarbageCollectionResult:
    """Removes the bundles that are neither current nor the one before, nor read by any process.

    Args:
        store: The store.
        model: The model.
        workspace: Remove the finished stages of a killed rebuild too; it then starts from scratch.
        dry_run: Only say what would be removed.
    """
    require_model(store, model)
    if dry_run:
        return _collect(store, model, workspace, dry_run=True)
    with changing(store, model):
        return _collect(store, model, workspace, dry_run=False)


def remove_bundle(bundle: Path) -> None:
    """Removes a bundle in two steps, so that no half of one is ever found under its digest."""
    trash = bundle.with_name(f"{TRASH}{bundle.name}")
    os.rename(bundle, trash)
    flush(bundle.parent)
    fault_point("remove.renamed")
    shutil.rmtree(trash)
    fault_point("remove.removed")


def _make_current(store: Store, model: str, digest: str, *, dry_run: bool) -> Change:
    bundle = find_bundle(store, model, digest)
    check_bundle(bundle, model)
    before = current_digest(store, model)
    if not dry_run:
        store.set_current(model, bundle.name)
    return Change(model, before, bundle.name, dry_run)


def check_bundle(bundle: Path, model: str) -> None:
    """Raises where a bundle is not whole, not what its directory is named after, or another model's."""
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    if manifest.model != model:
        raise InvalidInputError(f"bundle {bundle.name[:12]} is of model {manifest.model!r}, expected {model!r}")


def current_digest(store: Store, model: str) -> str | None:
    """Digest of the current bundle; None where the pointer is missing or damaged."""
    try:
        return str(store.pointer(model)["digest"])
    except (NotFoundError, CorruptBundleError):
        return None


def previous_digest(store: Store, model: str) -> str:
    """Digest of the bundle that was current before; raises NotFoundError where there was none."""
    previous = store.pointer(model).get("previous")
    if not previous:
        raise NotFoundError(f"model {model!r} has no bundle to roll back to", field="model", reason="NO_PREVIOUS")
    return str(previous)


def _collect(store: Store, model: str, workspace: bool, *, dry_run: bool) -> GarbageCollectionResult:
    pointer = store.pointer(model)
    wanted = {pointer["digest"], pointer.get("previous")}
    spare = [path for path in list_bundles(store, model) if path.name not in wanted]
    held = [path for path in spare if is_held(path)]
    unused = [path for path in spare if path not in held]
    work = store.directory(model) / WORK
    with_work = workspace and work.exists()
    doomed = [*unused, work] if with_work else unused
    size = sum(size_of(path) for path in doomed)
    if not dry_run:
        for path in unused:
            remove_bundle(path)
        if with_work:
            shutil.rmtree(work)
    return GarbageCollectionResult(
        model=model,
        removed=[path.name for path in unused],
        in_use=[path.name for path in held],
        kept=[path.name for path in list_bundles(store, model) if path.name in wanted],
        workspace=with_work,
        bytes=size,
        dry_run=dry_run,
    )


def size_of(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
