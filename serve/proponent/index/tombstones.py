"""Forgotten examples: a list beside ``current`` that holds for every bundle of a model, at once.

The file names the examples that no answer may show again and that no later rebuild may read; that is all it
keeps of them. Readers look at the file's time, size and inode before each batch, and read it again when these
have changed. A list that cannot be read stops answers instead of showing what was to be forgotten.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from proponent.errors import CorruptBundleError
from proponent.index.bundle import write_json
from proponent.index.store import BUNDLES, Store

FORGOTTEN = "forgotten.json"
SCHEMA_VERSION = 1

_Stamp = tuple[int, int, int]


class Tombstones:
    """The forgotten examples of one model, as the file says now.

    Args:
        path: The file, which need not exist as long as its directory does (a store that is gone is no store where
            nothing is forgotten); None where there can be none (a bundle outside a store).
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stamp: _Stamp | None = None
        self._ids: frozenset[str] = frozenset()

    @classmethod
    def open(cls, store: Store, model: str) -> Tombstones:
        """Those of a model of a store."""
        return cls(store.directory(model) / FORGOTTEN)

    @classmethod
    def beside(cls, bundle: Path) -> Tombstones:
        """Those that hold for a bundle; none for one that lies outside a store."""
        parent = bundle.absolute().parent
        return cls(parent.parent / FORGOTTEN if parent.name == BUNDLES else None)

    def ids(self) -> frozenset[str]:
        """Ids of the forgotten examples; the same object as long as the file is the same.

        Raises:
            CorruptBundleError: The file cannot be read.
        """
        stamp = self._look()
        if stamp != self._stamp:
            self._ids = frozenset(self._read()) if stamp is not None else frozenset()
            self._stamp = stamp
        return self._ids

    def contains(self, example_id: str) -> bool:
        """Whether an example is forgotten; costs one ``stat``."""
        return example_id in self.ids()

    def add(self, example_ids: Collection[str], when: str) -> list[str]:
        """Adds examples, at ``when`` (RFC 3339); returns those that were not on the list before."""
        assert self.path is not None
        with _alone(self.path):
            known = self._read() if self._look() is not None else {}
            new = [example_id for example_id in dict.fromkeys(example_ids) if example_id not in known]
            if new:
                examples = known | dict.fromkeys(new, when)
                write_json(self.path, {"schema_version": SCHEMA_VERSION, "examples": examples})
        return new

    def _look(self) -> _Stamp | None:
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise self._damaged("its directory is gone") from None
            return None
        except OSError as error:
            raise self._damaged(str(error)) from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> dict[str, str]:
        assert self.path is not None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            examples = content["examples"] if content["schema_version"] == SCHEMA_VERSION else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(str(error)) from error
        if not isinstance(examples, dict) or not all(isinstance(when, str) for when in examples.values()):
            raise self._damaged(f"expected the examples of schema version {SCHEMA_VERSION}")
        return examples

    def _damaged(self, why: str) -> CorruptBundleError:
        return CorruptBundleError(f"list of forgotten examples cannot be read: {self.path}: {why}", field=FORGOTTEN)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits for its turn to write: forgetting must not fail because a rebuild holds the model's lock."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in path.parent.glob(f".{path.name}.[0-9]*"):
            leftover.unlink()
        yield
