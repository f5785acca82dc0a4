"""Finished stages of a rebuild, so that a killed one resumes where it stopped.

A workspace belongs to one combination of spec, weights, data and package version (its key); another
combination starts from scratch.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from proponent.index.faults import fault_point
from proponent.rebuild.stage_files import LocalFiles, open_files

KEY = "key"
_TOLD = 16
"""Characters of a key that tell it from others."""


class Workspace:
    """A directory of finished stages, whose tensors may lie elsewhere.

    Args:
        directory: Holds the key and what is written of a bundle.
        key: See the module; what another key left is deleted.
        shards: URL of the stages' tensors, if not ``directory``: they lie below it by the key, so that stages of
            another key are never taken for them, whoever left them there.
    """

    def __init__(self, directory: Path, key: str, shards: str = "") -> None:
        self.directory = directory
        self.key = key
        self.location = f"{shards}/{key[:_TOLD]}" if shards else str(directory.absolute())
        self._shards = shards
        self._files = open_files(self.location)
        marker = directory / KEY
        if not marker.exists() or marker.read_text(encoding="utf-8") != key:
            self.remove()
            directory.mkdir(parents=True)
            marker.write_text(key, encoding="utf-8")
        if isinstance(self._files, LocalFiles):
            self._files.tidy()

    @classmethod
    def joined(cls, location: str) -> Workspace:
        """The stages at the ``location`` of a workspace that another process has opened, and cares for."""
        found = cls.__new__(cls)
        found.location, found._files = location, open_files(location)
        return found

    def inside(self, name: str) -> Workspace:
        """Another workspace of the same key, which goes with this one."""
        return Workspace(self.directory / name, self.key, f"{self._shards}/{name}" if self._shards else "")

    def beside(self, name: str) -> Workspace:
        """Another workspace of the same key, which stays when this one goes."""
        shards = f"{self._shards.rpartition('/')[0]}/{name}" if self._shards else ""
        return Workspace(self.directory.parent / name, self.key, shards)

    @property
    def started(self) -> datetime.datetime:
        """When the first run of this rebuild began; a resumed run writes the very same bundle."""
        return datetime.datetime.fromtimestamp(int((self.directory / KEY).stat().st_mtime), datetime.UTC)

    def has(self, stage: str) -> bool:
        """Whether the stage is finished."""
        return self._files.has(stage)

    def cached(self, stage: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors of a stage, on the CPU; computed and saved where it is not finished."""
        if not self.has(stage):
            self.save(stage, compute())
        return self.load(stage)

    def load(self, stage: str) -> dict[str, Tensor]:
        """Tensors of a finished stage, on the CPU."""
        return self._files.load(stage)

    def load_some(self, stage: str, names: Collection[str]) -> dict[str, Tensor]:
        """Some tensors of a finished stage."""
        return self._files.load(stage, names)

    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Finishes a stage."""
        self._files.save(stage, tensors)
        fault_point(f"stage.saved:{stage}")

    def discard(self, prefix: str) -> None:
        """Deletes the parts ``<prefix>-<number>`` of a stage that is finished, also those of several numbers."""
        for name in self._files.names():
            if re.fullmatch(rf"{re.escape(prefix)}(-\d+)+", name):
                self._files.delete(name)

    def remove(self) -> None:
        """Deletes everything; call it once the bundle is in place."""
        open_files(self._shards or self.location).clear()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def of_this_run(directory: Path, shards: str = "") -> Iterator[Workspace]:
    """A workspace that is empty at first and deleted with the block, also where an earlier one was not.

    It has a name of its own below ``directory`` and ``shards``: what a process of an earlier run may still write is
    never taken for what was computed now.
    """
    name = uuid.uuid4().hex
    whole = Workspace(directory, name, shards)
    try:
        yield whole.inside(name)
    finally:
        whole.remove()
        with suppress(OSError):
            directory.parent.rmdir()  # unless it holds something else


def workspace_key(parts: Mapping[str, object]) -> str:
    """Digest of everything that a stage's result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
