"""What lies in the store: read when asked, whatever is built or removed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from proponent.errors import CorruptBundleError, NotFoundError, ProponentError
from proponent.gateway.error_mapping import public_text
from proponent.gateway.lookups import struct
from proponent.index import lifecycle
from proponent.index.audit_file import known_audit
from proponent.index.bundle import CATALOG, Manifest, read_manifest
from proponent.index.catalog import Catalog
from proponent.index.storage import unreadable
from proponent.index.store import Store
from proponent.index.tombstones import Tombstones
from proponent.v1 import explanation_pb2 as pb


def list_bundles(store: Store, model: str) -> pb.ListBundlesResponse:
    """All bundles of a model, newest first; what is damaged says why, and what is removed meanwhile is left out."""
    pointer = _pointer(store, model)
    found = list(_summaries(store, model, pointer))
    found.sort(key=lambda summary: (summary.created, summary.digest), reverse=True)
    return pb.ListBundlesResponse(bundles=found)


def _pointer(store: Store, model: str) -> dict[str, object]:
    """What the store names as current and previous; nothing where it cannot be read."""
    try:
        return store.pointer(model)
    except (NotFoundError, CorruptBundleError):
        return {}


def _summaries(store: Store, model: str, pointer: dict[str, object]) -> Iterator[pb.BundleSummary]:
    for path in lifecycle.list_bundles(store, model):
        try:
            summary = _summary(path)
        except (ProponentError, OSError) as error:
            if not path.is_dir():
                continue
            known = unreadable(error) if isinstance(error, OSError) else error
            summary = pb.BundleSummary(digest=path.name, error=public_text(known.message))
        summary.is_current = path.name == pointer.get("digest")
        summary.is_previous = path.name == pointer.get("previous")
        yield summary


def _summary(path: Path) -> pb.BundleSummary:
    manifest = read_manifest(path)
    missing = [name for name in manifest.files if not (path / name).is_file()]
    if missing:
        raise CorruptBundleError(f"bundle file is missing: {path / missing[0]}", field=missing[0])
    return pb.BundleSummary(
        digest=manifest.digest,
        created=manifest.created,
        curvature=manifest.curvature,
        damping=manifest.damping,
        damping_relative=manifest.damping_relative,
        embedding_size=manifest.embedding_size,
        train_size=manifest.train_size,
        forgotten=_forgotten(path, manifest),
        train_accuracy=manifest.train_accuracy,
        kept_energy=manifest.kept_energy,
        loss=manifest.loss,
        weights_sha256=manifest.weights_sha256,
        size_bytes=lifecycle.size_of(path),
        samples=manifest.samples,
        audit=struct(known_audit(path, manifest)),
    )


def _forgotten(path: Path, manifest: Manifest) -> int:
    """Examples that a compaction has removed from a bundle, and those that are hidden in it."""
    hidden = sorted(Tombstones.beside(path).ids())
    if not hidden:
        return manifest.forgotten_rows
    with closing(Catalog.open(path / CATALOG)) as catalog:
        return manifest.forgotten_rows + len(catalog.rows_of(hidden))
