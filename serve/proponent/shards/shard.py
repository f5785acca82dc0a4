"""How the rows of a bundle are divided into shards: each is a stretch of the container, told by its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from proponent.errors import CorruptBundleError
from proponent.index.bundle import ROWS, Manifest

_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class Shard:
    """One shard of a bundle, as it is sent to its scanner.

    Attributes:
        bundle: The bundle's directory, the same for all.
        digest: Of the bundle.
        count: Rows of the whole bundle.
        row_bytes: Of each.
        place: Where its rows lie in the container.
        sha256: Of them.
    """

    bundle: str
    digest: str
    count: int
    row_bytes: int
    place: slice
    sha256: str


def stretches(count: int, shards: int) -> list[slice]:
    """As many neighbouring stretches of rows as asked for, none of them empty, of equal length but for one row."""
    used = min(shards, count)
    ends = [number * count // used for number in range(used + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def divided(bundle: Path, manifest: Manifest, count: int, row_bytes: int, shards: int) -> list[Shard]:
    """The shards of a bundle, whose file of rows is read once and compared with its checksum.

    Args:
        bundle: Its directory.
        manifest: Its manifest.
        count: Its rows.
        row_bytes: Bytes of a row in the container.
        shards: Most of them.

    Raises:
        CorruptBundleError: The file is missing or not that of the manifest.
    """
    places = stretches(count, shards)
    whole, parts = _digests(bundle / ROWS, row_bytes * count, [row_bytes * (p.stop - p.start) for p in places])
    if whole != manifest.files[ROWS]:
        raise CorruptBundleError(
            f"bundle file is damaged: {bundle / ROWS} has SHA-256 {whole[:16]}..., expected "
            f"{manifest.files[ROWS][:16]}...",
            field=ROWS,
        )
    told = str(bundle.absolute()), manifest.digest, count, row_bytes
    return [Shard(*told, place, part) for place, part in zip(places, parts, strict=True)]


def _digests(path: Path, codes: int, sizes: Sequence[int]) -> tuple[str, list[str]]:
    """SHA-256 of a container, and of the stretches of its codes, which end it."""
    try:
        with path.open("rb") as file:
            whole, header = hashlib.sha256(), max(path.stat().st_size - codes, 0)
            whole.update(file.read(header))
            parts = [_digest(file, size, whole) for size in sizes]
            return whole.hexdigest(), parts
    except FileNotFoundError:
        raise CorruptBundleError(f"bundle file is missing: {path}", field=path.name) from None


def _digest(file: Any, size: int, whole: Any) -> str:
    own = hashlib.sha256()
    while size > 0 and (content := file.read(min(size, _READ_BYTES))):
        own.update(content)
        whole.update(content)
        size -= len(content)
    return own.hexdigest()
