"""Processes of trainings: each by itself, of one thread, begun without importing torch anew."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from proponent.rebuild.retraining import in_processes


def describe(path: Path) -> None:
    """A task: says where it runs."""
    told = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "threads": torch.get_num_threads(),
        "mark": os.environ.get("MARK"),
        "seed": torch.initial_seed(),
    }
    torch.manual_seed(1)
    path.write_text(json.dumps(told))


def fail(_: Path) -> None:
    raise OverflowError("the training failed")


def test_each_pool_is_of_new_processes_of_one_thread_and_todays_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    torch.manual_seed(7)
    for mark in ("first", "second"):
        monkeypatch.setenv("MARK", mark)
        assert len(list(in_processes(describe, [(tmp_path / mark,)], 1))) == 1
        found.append(json.loads((tmp_path / mark).read_text()))
    assert [each["mark"] for each in found] == ["first", "second"]
    assert len({os.getpid(), *(each["pid"] for each in found)}) == 3
    assert all(each["threads"] == 1 and each["seed"] not in (1, 7) for each in found)
    if sys.platform == "linux":
        assert found[0]["parent"] == found[1]["parent"] != os.getpid()


def test_what_a_task_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(OverflowError, match="the training failed"):
        list(in_processes(fail, [(tmp_path,)], 1))
