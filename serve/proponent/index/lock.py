"""Who may change a model's files, and which bundles somebody reads: advisory locks that die with a process."""

from __future__ import annotations

import fcntl
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proponent.errors import BusyError
from proponent.index.bundle import MANIFEST
from proponent.index.storage import storage_errors
from proponent.index.store import BUNDLES, CURRENT, Store

LOCK = "lock"
TRASH = ".trash-"
COMPACTION = ".compaction"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file for the length of a block; the system frees it when the process dies.

    Raises:
        BusyError: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another rebuild or change is running: {path} is locked", field=str(path)) from None
        yield


@contextmanager
def changing(store: Store, model: str) -> Iterator[None]:
    """The right to change a model's bundles or its pointer; what a killed process left half done is removed.

    Raises:
        BusyError: Another process is changing them.
        StorageError: The disk is full or read-only.
    """
    with storage_errors(store.directory(model)), exclusive(store.directory(model) / LOCK):
        sweep(store, model)
        yield


def sweep(store: Store, model: str) -> list[Path]:
    """Removes half-written pointers, half-removed bundles and half-made compactions; returns what it removed."""
    directory = store.directory(model)
    leftovers = [*directory.glob(f".{CURRENT}.*"), *directory.glob(COMPACTION)]
    leftovers += (directory / BUNDLES).glob(f"{TRASH}*")
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return leftovers


class BundleLock:
    """A shared lock on a bundle for as long as this object lives: nothing removes a bundle that is held."""

    def __init__(self, bundle: Path) -> None:
        handle = os.open(bundle / MANIFEST, os.O_RDONLY)
        self._release = weakref.finalize(self, os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_SH)

    def release(self) -> None:
        """Frees the bundle."""
        self._release()


def is_held(bundle: Path) -> bool:
    """Whether some process reads the bundle."""
    try:
        handle = os.open(bundle / MANIFEST, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
