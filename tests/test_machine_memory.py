"""What a machine has left is told by the system, and what only holds files counts as left."""

from __future__ import annotations

from pathlib import Path

import pytest

from proponent import machine_memory
from proponent.machine_memory import available_bytes, machine_bytes


@pytest.mark.parametrize(("stat", "expected"), [("active_file 70\ninactive_file 250\n", 550), ("anon 1\n", 300)])
def test_of_a_control_group_the_files_that_it_would_drop_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stat: str, expected: int
) -> None:
    """A rebuild's own stages fill a container up to its limit."""
    for name, text in {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": stat}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine_memory, "_CGROUPS", [(tmp_path, "memory.max", "memory.current", "inactive_file")])
    assert available_bytes() == expected


@pytest.mark.parametrize(
    ("meminfo", "expected"), [("MemFree: 1 kB\nMemAvailable:   300 kB\n", 300 << 10), ("MemFree: 1 kB\n", None)]
)
def test_what_the_system_does_not_say_is_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meminfo: str, expected: int | None
) -> None:
    (tmp_path / "meminfo").write_text(meminfo)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    monkeypatch.setattr(machine_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine_memory, "_CGROUPS", [(tmp_path, "memory.max", "memory.current", "inactive_file")])
    assert available_bytes() == (expected or machine_bytes())
