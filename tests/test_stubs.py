"""The committed stubs are what the proto files give: nobody edits them, nobody forgets to regenerate them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUBS = ROOT / "serve" / "proponent" / "v1"


def is_set_up() -> bool:
    """Whether scripts/setup has nothing to do; scripts/proto runs it, and a test must not install anything."""
    stamp = ROOT / ".venv" / ".installed"
    wanted = subprocess.run("cksum pyproject.toml; pwd", shell=True, cwd=ROOT, capture_output=True, text=True).stdout
    return stamp.exists() and stamp.read_text() == wanted


def test_the_committed_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    if not is_set_up():
        pytest.skip("this environment was not made by scripts/setup from this pyproject.toml: run scripts/setup")
    done = subprocess.run([ROOT / "scripts" / "proto", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in STUBS.iterdir() if path.suffix in (".py", ".pyi")}
    committed.pop("__init__.py")
    assert sorted(made) == sorted(committed)
    assert [name for name in made if made[name] != committed[name]] == []
