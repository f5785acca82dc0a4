"""Stages below a URL are read as those in a directory are, and no more of them than is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

import tiny
from proponent.errors import SpecError, StorageError
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.stage_files import SUFFIX, open_files
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec

STAGE = {
    "empty": torch.zeros(0, 4),
    "counts": torch.arange(5),
    "is_kept": torch.tensor([True, False, True]),
    "half": torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).half(),
    "sum": torch.tensor(2.5, dtype=torch.float64),
    "wide": torch.randn(500, 40, generator=torch.Generator().manual_seed(1)).double(),
}


@pytest.mark.parametrize("names", [None, list(STAGE)], ids=["whole", "in part"])
def test_tensors_begin_where_torch_would_put_them_wherever_they_are_read_from(
    tmp_path: Path, names: list[str] | None
) -> None:
    for place in ("memory://lines", tmp_path.as_uri(), str(tmp_path)):
        files = open_files(place)
        files.save("rows-00000", STAGE)
        found = files.load("rows-00000", names)
        assert {name: value.data_ptr() % 64 for name, value in found.items()} == dict.fromkeys(STAGE, 0)


@given(names=st.sets(st.sampled_from(sorted(STAGE))))
def test_some_tensors_are_those_of_the_whole_stage(names: set[str]) -> None:
    files = open_files("memory://stages")
    files.save("rows-00000", STAGE)
    assert set(files.load("rows-00000")) == set(STAGE)
    found = files.load("rows-00000", names)
    assert set(found) == names
    for name, value in found.items():
        assert value.dtype == STAGE[name].dtype and torch.equal(value, STAGE[name])


@pytest.mark.parametrize("length", [0, 5, 100, -10])
@pytest.mark.parametrize("names", [None, ["is_kept"]], ids=["whole", "in part"])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, names: list[str] | None, length: int) -> None:
    """And once it is deleted, the stage is not there: it is computed again."""
    for place in (tmp_path.as_uri(), str(tmp_path)):
        files, path = open_files(place), tmp_path / f"rows-00000{SUFFIX}"
        files.save("rows-00000", STAGE)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(StorageError, match=rf"{path} is damaged: delete it") as caught:
            files.load("rows-00000", names)
        assert caught.value.message.startswith(("file:///", str(path)))
        files.delete("rows-00000")
        assert not files.has("rows-00000")


def test_little_is_read_of_a_stage_that_is_wanted_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's worker takes its own share of all parts of a sum."""
    files, read = open_files("memory://parts"), list[int]()
    files.save("sums-00000", STAGE)
    whole = MemoryFileSystem().size(f"/parts/sums-00000{SUFFIX}")
    cat = MemoryFileSystem.cat_file

    def counted(self: MemoryFileSystem, *arguments: Any, **options: Any) -> bytes:
        found: bytes = cat(self, *arguments, **options)
        read.append(len(found))
        return found

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    files.load("sums-00000", ["counts", "half"])
    assert sum(read) < 2000 < whole / 10


@pytest.mark.parametrize("shards", ["stages", "file://stages", "s3:/bucket/stages", "C:/stages"])
def test_a_place_that_other_processes_would_not_find_is_refused(tmp_path: Path, shards: str) -> None:
    spec = load_spec(tiny.project(tmp_path, iterations=1))
    with pytest.raises(SpecError, match=rf"--shards has value '{shards}', expected a URL such as"):
        rebuild(spec, Store(tmp_path / "store"), RebuildOptions(quiet=True, shards=shards))
    assert not (tmp_path / "store").exists()


@pytest.mark.filterwarnings("ignore:the objective.s gradient norm")
def test_stages_at_an_absolute_path_go_with_the_rebuild(tmp_path: Path) -> None:
    spec, shards = load_spec(tiny.project(tmp_path, iterations=1, expected_accuracy=0)), tmp_path / "some stages"
    rebuild(spec, Store(tmp_path / "store"), RebuildOptions(quiet=True, shards=str(shards)))
    assert shards.is_dir() and not [path for path in shards.rglob("*") if path.is_file()]


@pytest.mark.parametrize("method", ["exists", "isdir", "cat_file", "pipe_file", "mv", "rm_file", "rm"])
def test_what_a_file_system_raises_is_an_error_of_the_store_of_stages(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Each library has exceptions of its own; the place is named, and what was asked is given once it works again."""
    work = open_files("memory://broken/work")

    def used() -> None:
        work.save("rows-00000", STAGE)
        assert work.has("rows-00000") and work.names() == ["rows-00000"]
        assert set(work.load("rows-00000")) == set(STAGE) and set(work.load("rows-00000", ["half"])) == {"half"}
        work.delete("rows-00000")
        work.clear()

    def fails(self: MemoryFileSystem, *arguments: Any, **options: Any) -> None:
        raise EOFError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, method, fails)
        with pytest.raises(StorageError, match=r"cannot use memory://broken/work: EOFError: no answer") as caught:
            used()
    assert caught.value.field == "shards"
    used()


def test_stages_of_another_key_at_the_same_url_are_not_taken(tmp_path: Path) -> None:
    """Neither those of another store, nor those that a rebuild of other weights left there and none else knows of."""
    url = "memory://shared/toy/work"
    first = Workspace(tmp_path / "first", "a" * 64, url)
    other = Workspace(tmp_path / "other", "b" * 64, url)
    first.save("rows-00000", STAGE)
    assert not other.has("rows-00000")
    (tmp_path / "first" / "key").write_text("c" * 64)
    assert not Workspace(tmp_path / "first", "c" * 64, url).has("rows-00000")
    other.save("rows-00000", STAGE)
    other.remove()
    assert not MemoryFileSystem().exists("/shared/toy/work")
