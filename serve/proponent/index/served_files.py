"""Whether the files that are read while serving are still those that were checked when the bundle was loaded."""

from __future__ import annotations

import os
from pathlib import Path

from proponent.index.bundle import CATALOG, CODE, FACTORS, ROWS, SAMPLES, SCALES, Manifest, damage_of

_Stamp = tuple[int, int, int]
# Mapped or open; the others are read once, into memory.
_NAMES = (ROWS, CODE, SCALES, FACTORS, CATALOG, SAMPLES)


class ServedFiles:
    """The files that stay open: a bundle never changes, so that any change of their time or size is looked into.

    Made before the files are verified, so that no change falls between.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self._bundle = bundle
        self._manifest = manifest
        self._stamps = {name: self._stamp(name) for name in _NAMES if name in manifest.files}

    def check(self) -> None:
        """Compares the checksum of each file whose time, size or inode has changed.

        Raises:
            CorruptBundleError: Names the file that is gone or has other content.
        """
        for name, before in self._stamps.items():
            stamp = self._stamp(name)
            if stamp == before:
                continue
            problem = damage_of(self._bundle, name, self._manifest.files[name])
            if problem is not None:
                raise problem
            self._stamps[name] = stamp

    def _stamp(self, name: str) -> _Stamp | None:
        try:
            found = os.stat(self._bundle / name)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
