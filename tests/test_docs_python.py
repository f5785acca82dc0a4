"""docs/python.md says what is true: its first example runs as it stands and prints what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from proponent.spec import load_spec

DOCUMENT = Path(__file__).parent.parent / "docs" / "python.md"
_NUMBER = re.compile(r"-?\d+\.\d+")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found.group(1)


def test_the_first_example_prints_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "explain.yaml").write_text(block("yaml"))
    assert (
        len([line for line in block("python").splitlines() if line and not line.startswith(("import", "from"))]) <= 15
    )
    script = tmp_path / "example.py"
    script.write_text(block("python"))
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown, printed = block("text"), done.stdout
    assert _NUMBER.sub("", printed) == _NUMBER.sub("", shown)
    pairs = zip(_NUMBER.findall(printed), _NUMBER.findall(shown), strict=True)
    assert all(abs(float(a) - float(b)) <= 0.02 for a, b in pairs)
    assert load_spec(tmp_path).name == "digits"
