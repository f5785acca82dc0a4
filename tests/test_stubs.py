"""The committed stubs are what the proto files give: nobody edits them, nobody forgets to regenerate them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
STUBS = ROOT / "serve" / "proponent" / "v1"


def test_the_committed_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "scripts" / "proto", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in STUBS.iterdir() if path.suffix in (".py", ".pyi")}
    committed.pop("__init__.py")
    assert sorted(made) == sorted(committed)
    assert [name for name in made if made[name] != committed[name]] == []
