"""Finished stages of a rebuild on disk, so that a killed one resumes where it stopped.

A workspace belongs to one combination of spec, weights, data and package version (its key); another
combination starts from scratch. Every stage is one safetensors file, written under another name, flushed and renamed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from proponent.index.bundle import flush
from proponent.index.faults import fault_point
from proponent.index.tensor_file import save_tensors

KEY = "key"


class Workspace:
    """A directory of finished stages."""

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        marker = directory / KEY
        if not marker.exists() or marker.read_text(encoding="utf-8") != key:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            marker.write_text(key, encoding="utf-8")
        for leftover in directory.glob(".*.safetensors"):
            leftover.unlink()

    @property
    def started(self) -> datetime.datetime:
        """When the first run of this rebuild began; a resumed run writes the very same bundle."""
        return datetime.datetime.fromtimestamp(int((self.directory / KEY).stat().st_mtime), datetime.UTC)

    def has(self, stage: str) -> bool:
        """Whether the stage is finished."""
        return self._path(stage).exists()

    def cached(self, stage: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors of a stage, on the CPU; computed and saved where it is not finished."""
        if not self.has(stage):
            self.save(stage, compute())
        return self.load(stage)

    def load(self, stage: str) -> dict[str, Tensor]:
        """Tensors of a finished stage, on the CPU."""
        return load_file(self._path(stage))

    def load_some(self, stage: str, names: Collection[str]) -> dict[str, Tensor]:
        """Some tensors of a finished stage; the others are not read."""
        with safe_open(self._path(stage), framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in names}

    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Finishes a stage."""
        temporary = self._path(f".{stage}")
        save_tensors(tensors, temporary)
        flush(temporary)
        fault_point(f"stage.written:{stage}")
        os.replace(temporary, self._path(stage))
        flush(self.directory)
        fault_point(f"stage.saved:{stage}")

    def remove(self) -> None:
        """Deletes the directory; call it once the bundle is in place."""
        shutil.rmtree(self.directory)

    def _path(self, stage: str) -> Path:
        return self.directory / f"{stage}.safetensors"


def workspace_key(parts: Mapping[str, object]) -> str:
    """Digest of everything that a stage's result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
