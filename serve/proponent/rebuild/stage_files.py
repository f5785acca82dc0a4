"""Where the tensors of stages are kept: a directory, or any place that fsspec knows by a URL (S3, GCS and others).

A file of a stage is whole or not there: it is written under another name, flushed and renamed; object stores show an
object when all of it has come.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import fsspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor
from typing_extensions import override

from proponent.errors import SpecError, StorageError
from proponent.index.bundle import flush
from proponent.index.faults import fault_point
from proponent.index.tensor_file import apart, save_tensors

SUFFIX = ".safetensors"
_LENGTH = 8
"""Bytes that tell the length of a safetensors file's header."""
_LINE = 64
"""Bytes of a cache line, where torch's own tensors begin."""


class StageFiles(Protocol):
    """Tensors by the name of a stage."""

    def has(self, stage: str) -> bool:
        """Whether there is such a stage."""

    def names(self) -> list[str]:
        """Of all stages that there are."""

    def load(self, stage: str, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Its tensors, or some of them, on the CPU."""

    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps a stage."""

    def delete(self, stage: str) -> None:
        """Deletes one that is there."""

    def clear(self) -> None:
        """Deletes everything, also what a process that died left half-written."""


class LocalFiles(StageFiles):
    """In a directory, which machines may share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @override
    def has(self, stage: str) -> bool:
        return self._path(stage).exists()

    @override
    def names(self) -> list[str]:
        return [path.stem for path in self._directory.glob(f"[!.]*{SUFFIX}")]

    @override
    def load(self, stage: str, names: Collection[str] | None = None) -> dict[str, Tensor]:
        path = self._path(stage)
        with _undamaged(path):
            if names is None:
                return _aligned(load_file(path))
            with safe_open(path, framework="pt") as stored:
                return _aligned({name: stored.get_tensor(name) for name in names})

    @override
    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        temporary = self._path(f".{stage}-{uuid.uuid4().hex}")
        save_tensors(tensors, temporary)
        flush(temporary)
        fault_point(f"stage.written:{stage}")
        os.replace(temporary, self._path(stage))
        flush(self._directory)

    @override
    def delete(self, stage: str) -> None:
        self._path(stage).unlink()

    @override
    def clear(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def tidy(self) -> None:
        """Deletes what processes that died left half-written."""
        for leftover in self._directory.glob(f".*{SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def _path(self, stage: str) -> Path:
        return self._directory / f"{stage}{SUFFIX}"


class RemoteFiles(StageFiles):
    """Below a URL; the credentials are those that the file system of its scheme finds.

    All methods raise StorageError where it cannot be reached, read or written.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._system, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SpecError(f"--shards has value {url!r}, which cannot be opened: {error}", field="shards") from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except StorageError:  # says so already
            raise
        except Exception as error:  # file systems raise what their libraries do
            raise StorageError(f"cannot use {self._url}: {type(error).__name__}: {error}", field="shards") from error

    @override
    def has(self, stage: str) -> bool:
        with self._reached():
            return bool(self._system.exists(self._path(stage)))

    @override
    def names(self) -> list[str]:
        with self._reached():
            there = self._system.ls(self._root, detail=False) if self._system.isdir(self._root) else []
        found = [path.rpartition("/")[2] for path in there]
        return [name.removesuffix(SUFFIX) for name in found if name.endswith(SUFFIX) and not name.startswith(".")]

    @override
    def load(self, stage: str, names: Collection[str] | None = None) -> dict[str, Tensor]:
        path = self._path(stage)
        with self._reached():
            content = self._system.cat_file(path) if names is None else self._part(path, names)
        with _undamaged(self._system.unstrip_protocol(path)):
            return _aligned(load(content))

    def _part(self, path: str, names: Collection[str]) -> bytes:
        """A safetensors file of some tensors of one, of which only these bytes and the header are read."""
        size = int.from_bytes(self._system.cat_file(path, start=0, end=_LENGTH), "little")
        first = _LENGTH + size
        found = self._system.cat_file(path, start=_LENGTH, end=first)
        with _undamaged(self._system.unstrip_protocol(path)):
            held = json.loads(found)
        header, content = {}, b""
        for name in sorted(names, key=lambda name: held[name]["data_offsets"]):
            begin, end = held[name]["data_offsets"]
            header[name] = held[name] | {"data_offsets": [len(content), len(content) + end - begin]}
            content += self._system.cat_file(path, start=first + begin, end=first + end) if end > begin else b""
        told = json.dumps(header).encode()
        told += b" " * (-len(told) % _LENGTH)  # numbers begin where processors like to read them
        return len(told).to_bytes(_LENGTH, "little") + told + content

    @override
    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        content, temporary = save(apart(tensors)), f"{self._root}/.{stage}-{uuid.uuid4().hex}{SUFFIX}"
        with self._reached():
            self._system.makedirs(self._root, exist_ok=True)
            self._system.pipe_file(temporary, content)
            self._system.mv(temporary, self._path(stage))

    @override
    def delete(self, stage: str) -> None:
        with self._reached():
            self._system.rm_file(self._path(stage))

    @override
    def clear(self) -> None:
        with self._reached():
            if self._system.exists(self._root):
                self._system.rm(self._root, recursive=True)

    def _path(self, stage: str) -> str:
        return f"{self._root}/{stage}{SUFFIX}"


@contextmanager
def _undamaged(path: Path | str) -> Iterator[None]:
    """Says which file it is that cannot be understood."""
    try:
        yield
    except (SafetensorError, ValueError) as error:
        raise StorageError(
            f"{path} is damaged: delete it, and what it held is computed again ({error})", field="shards"
        ) from error


def _aligned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of those that begin within a cache line.

    Products round by where their operands begin, which would depend on where a file was read from.
    """
    return {name: value.clone() if value.data_ptr() % _LINE else value for name, value in tensors.items()}


def is_url(location: str) -> bool:
    """Whether it names a file system by a scheme."""
    return re.match(r"[a-z0-9+.-]+:(//|:)", location) is not None


def open_files(location: str) -> StageFiles:
    """Files at a URL or below a directory."""
    return RemoteFiles(location) if is_url(location) else LocalFiles(Path(location))
