"""A bundle: an immutable directory that holds all an explanation needs, under one digest.

Its digest is the SHA-256 of ``manifest.json``, which holds the SHA-256 of every other file. A bundle is
written to a temporary sibling, flushed to disk, and renamed into place under its digest, so that a reader
sees either nothing or all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from proponent.errors import CorruptBundleError
from proponent.index.faults import fault_point
from proponent.signature import InputSignature, signature_from

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ROWS = "rows.faiss"
SCALES = "scales.safetensors"
FACTORS = "factors.safetensors"
CATALOG = "catalog.sqlite"
SPEC = "spec.yaml"
WEIGHTS = "model.safetensors"
SAMPLES = "samples.sqlite"
CODE = "code.safetensors"
_DIGEST = re.compile("[0-9a-f]{64}")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
}
# Keys that bundles of this schema version may lack: each has a default that says nothing.
_ADDED: frozenset[str] = frozenset(
    {
        "distillation",
        "frozen",
        "frozen_share",
        "inputs",
        "left_out",
        "probes",
        "query_size",
        "row_groups",
        "samples",
        "teachers",
    }
)
FILES = (ROWS, SCALES, FACTORS, CATALOG, SPEC, WEIGHTS)
"""In every bundle; ``SAMPLES`` is in those that keep some, ``CODE`` in those whose rows are coded."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle is, how it was made and what it is known to be worth.

    Attributes:
        files: SHA-256 of every file but the manifest, by name.
        kept_energy: Mean share of the training rows' whitened gradient energy that the embedding keeps.
        uncovered: Trained parameters outside the explanation, name to count; ``uncovered_share`` of the trained.
        left_out: Modules that hold uncovered parameters, and why; not those that ``curvature.layers`` leaves out.
        frozen: Parameters left out because training did not change them, name to count; ``frozen_share`` of all.
        train_size: N, the examples that the model was trained on (as the rebuild saw them).
        omitted_rows: Training rows without a direction, left out of both RelatIF measures.
        forgotten_rows: Rows that a compaction has removed since.
        samples: Held-out inputs that ``samples.sqlite`` keeps; 0: there is no such file.
        probes: What model, transform and loss make of made-up inputs, see ``code_probe``; empty in older bundles.
        teachers: Models of the same recipe that scores were distilled from; 0: they are the model's own.
        distillation: Of the fit: ``recipe`` (digest of what teachers depend on), ``seeds`` (first and last),
            ``halves`` (of the teachers, how many have seen a half of the training set),
            ``pseudo_queries``, ``unlabelled`` (those that were given), ``slope``, ``kept`` (the share
            of the fit that K numbers hold); empty without teachers.
        row_groups: Bases that rows are coded in, see ``index.row_code``; 0: a row has as many numbers as a query.
        query_size: Numbers of a query where rows are coded; 0: as many as a row has.
        inputs: What the model takes, beside the three keys named after it; empty in older bundles.
        digest: SHA-256 of the manifest file; empty before it is written.
    """

    model: str
    created: str
    weights_sha256: str
    dataset_sha256: str
    loss: str
    weight_decay: float
    curvature: str
    damping: float
    damping_relative: bool
    embedding_size: int
    train_size: int
    class_names: list[str]
    input_shape: list[int]
    image_size: list[int]
    image_mode: str
    kept_energy: float
    omitted_rows: int
    train_accuracy: float
    gradient_norm_ratio: float
    settings: dict[str, Any]
    versions: dict[str, str]
    uncovered: dict[str, int]
    uncovered_share: float
    left_out: dict[str, str] = field(default_factory=dict)
    frozen: dict[str, int] = field(default_factory=dict)
    frozen_share: float = 0.0
    forgotten_rows: int = 0
    audit: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    samples: int = 0
    teachers: int = 0
    distillation: dict[str, Any] = field(default_factory=dict)
    row_groups: int = 0
    query_size: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    digest: str = ""

    @cached_property
    def signature(self) -> InputSignature:
        """What one input must look like."""
        return signature_from(tuple(self.input_shape), self.image_mode, tuple(self.image_size), self.inputs)


def read_manifest(bundle: Path) -> Manifest:
    """Reads a bundle's manifest; its digest is computed, not stored.

    Raises:
        CorruptBundleError: Missing, unreadable, of another schema version, lacking a key, or another bundle's.
    """
    path = bundle / MANIFEST
    try:
        content = path.read_bytes()
        values = json.loads(content)
    except (OSError, ValueError) as error:
        raise CorruptBundleError(f"manifest cannot be read: {path}: {error}", field=MANIFEST) from error
    if not isinstance(values, dict) or not _holds_the_keys(values):
        raise CorruptBundleError(
            f"manifest does not hold the keys of schema version {SCHEMA_VERSION}: {path}", field=MANIFEST
        )
    for entry in fields(Manifest):
        _check_type(path, entry.name, str(entry.type), values)
    digest = hashlib.sha256(content).hexdigest()
    _check_name(path, digest)
    return Manifest(**values, digest=digest)


def _holds_the_keys(values: Mapping[str, Any]) -> bool:
    """Every key is known; those of ``_ADDED`` may be missing, as in bundles written before they existed."""
    known = {entry.name for entry in fields(Manifest)} - {"digest"}
    return known - _ADDED <= set(values) <= known and values["schema_version"] == SCHEMA_VERSION


def _check_type(path: Path, key: str, annotation: str, values: Mapping[str, Any]) -> None:
    expected = _TYPES[annotation.partition("[")[0]]
    if key in values and not isinstance(values[key], expected):
        raise CorruptBundleError(
            f"manifest is damaged: {path}: key {key!r} is not of type {annotation}", field=MANIFEST
        )


def is_digest(name: str) -> bool:
    """Whether a directory's name is that of a bundle in a store."""
    return _DIGEST.fullmatch(name) is not None


def _check_name(path: Path, digest: str) -> None:
    """A bundle in a store bears its digest as its name."""
    name = path.parent.name
    if is_digest(name) and name != digest:
        raise CorruptBundleError(
            f"bundle file is damaged: {path} has SHA-256 {digest[:16]}..., expected {name[:16]}...",
            field=MANIFEST,
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read once from start to end (which also warms the page cache)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_names(manifest: Manifest) -> tuple[str, ...]:
    """The files of a bundle beside its manifest."""
    return (*FILES, *([SAMPLES] if manifest.samples else []), *([CODE] if manifest.row_groups else []))


def verify_files(bundle: Path, manifest: Manifest, besides: Collection[str] = ()) -> None:
    """Compares every file with its checksum, ``besides`` some that are compared elsewhere.

    Raises:
        CorruptBundleError: Names the first file that is missing or differs.
    """
    for problem in damage(bundle, manifest, besides):
        raise problem


def damage(bundle: Path, manifest: Manifest, besides: Collection[str] = ()) -> Iterator[CorruptBundleError]:
    """An error for each file that is missing or differs from its checksum."""
    expected_files = file_names(manifest)
    if set(manifest.files) != set(expected_files):
        yield CorruptBundleError(
            f"manifest lists files {sorted(manifest.files)}, expected {sorted(expected_files)}: {bundle}",
            field=MANIFEST,
        )
    for name, expected in manifest.files.items():
        problem = None if name in besides else damage_of(bundle, name, expected)
        if problem is not None:
            yield problem


def damage_of(bundle: Path, name: str, expected: str) -> CorruptBundleError | None:
    """The error of a file that is missing or whose SHA-256 is not the one expected."""
    path = bundle / name
    if not path.is_file():
        return CorruptBundleError(f"bundle file is missing: {path}", field=name)
    actual = file_sha256(path)
    if actual == expected:
        return None
    return CorruptBundleError(
        f"bundle file is damaged: {path} has SHA-256 {actual[:16]}..., expected {expected[:16]}...", field=name
    )


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Completes a bundle directory with checksums and manifest, flushed to disk; returns the digest."""
    values = asdict(manifest)
    del values["digest"]
    names = file_names(manifest)
    values["files"] = {name: file_sha256(directory / name) for name in names}
    content = json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode()
    (directory / MANIFEST).write_bytes(content)
    for name in (*names, MANIFEST):
        flush(directory / name)
    flush(directory)
    return hashlib.sha256(content).hexdigest()


def seal(directory: Path, manifest: Manifest, bundles: Path) -> Path:
    """Finishes a temporary directory and renames it to ``bundles/<digest>``; returns that path."""
    digest = write_manifest(directory, manifest)
    fault_point("seal.written")
    target = bundles / digest
    if target.exists():
        shutil.rmtree(directory)
    else:
        os.rename(directory, target)
    flush(bundles)
    fault_point("seal.renamed")
    return target


def flush(path: Path) -> None:
    """Forces a file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a small JSON file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    flush(temporary)
    fault_point(f"{path.name}.written")
    os.replace(temporary, path)
    flush(path.parent)
    fault_point(f"{path.name}.replaced")
