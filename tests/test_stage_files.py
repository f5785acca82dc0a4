"""Stages below a URL are read as those in a directory are, and no more of them than is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from proponent.rebuild.stage_files import SUFFIX, open_files

STAGE = {
    "empty": torch.zeros(0, 4),
    "counts": torch.arange(5),
    "is_kept": torch.tensor([True, False, True]),
    "half": torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).half(),
    "sum": torch.tensor(2.5, dtype=torch.float64),
    "wide": torch.randn(500, 40, generator=torch.Generator().manual_seed(1)).double(),
}


@given(names=st.sets(st.sampled_from(sorted(STAGE))))
def test_some_tensors_are_those_of_the_whole_stage(names: set[str]) -> None:
    files = open_files("memory://stages")
    files.save("rows-00000", STAGE)
    assert set(files.load("rows-00000")) == set(STAGE)
    found = files.load("rows-00000", names)
    assert set(found) == names
    for name, value in found.items():
        assert value.dtype == STAGE[name].dtype and torch.equal(value, STAGE[name])


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
