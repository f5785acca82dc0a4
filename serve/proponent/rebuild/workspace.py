"""Finished stages of a rebuild on disk, so that a killed one resumes where it stopped.

A workspace belongs to one combination of spec, weights, data and package version (its key); another
combination starts anew. Every stage is one safetensors file, written under another name, flushed and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from proponent.errors import ProponentError
from proponent.index.bundle import flush

KEY = "key"


class BusyError(ProponentError):
    """Another rebuild of the same model is running."""

    default_reason = "REBUILD_RUNNING"


class Workspace:
    """A directory of finished stages."""

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        marker = directory / KEY
        if not marker.exists() or marker.read_text(encoding="utf-8") != key:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            marker.write_text(key, encoding="utf-8")

    def has(self, stage: str) -> bool:
        """Whether the stage is finished."""
        return self._path(stage).exists()

    def load(self, stage: str) -> dict[str, Tensor]:
        """Tensors of a finished stage, on the CPU."""
        return load_file(self._path(stage))

    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Finishes a stage."""
        temporary = self._path(f".{stage}")
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
        flush(temporary)
        os.replace(temporary, self._path(stage))
        flush(self.directory)

    def remove(self) -> None:
        """Deletes the directory; call it once the bundle is in place."""
        shutil.rmtree(self.directory)

    def _path(self, stage: str) -> Path:
        return self.directory / f"{stage}.safetensors"


def workspace_key(parts: Mapping[str, object]) -> str:
    """Digest of everything that a stage's result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


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
