"""Every example and every other block of docs/python.md, run as a user would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from inputs import GOOD
from running import RunningGateway

from proponent.gateway.rollout.control_client import SOCKET

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)

pytestmark = pytest.mark.e2e


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command that finds the installed ``proponent``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True)


def test_own_classifier(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES / "own_classifier", project)
    done = run(sys.executable, "train.py", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "prediction: " in done.stdout and done.stdout.count("moons-0-") == 3 * 2 * 3


def test_client(service: RunningGateway, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(GOOD)
    done = run(sys.executable, str(EXAMPLES / "client.py"), "digit.png", service.grpc_address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("3 (") and len(done.stdout.splitlines()) == 1 + 3 * 2 * 3
    wrong = run(sys.executable, str(EXAMPLES / "client.py"), "digit.png", service.grpc_address, "other", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: model 'other' is unknown")


def test_a_release_is_gated(digits: Path, tmp_path: Path) -> None:
    """The same model again has the same reasons; no bundle has an overlap above 1."""
    store = tmp_path / "store"
    shutil.copytree(digits / "store", store, ignore=shutil.ignore_patterns(SOCKET))
    gate = [str(EXAMPLES / "release_gate"), str(digits / "model"), str(store), "digits"]
    passed = run(*gate, "0.9", cwd=tmp_path)
    assert passed.returncode == 0, passed.stderr


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block.splitlines()[0])
def test_blocks_of_the_python_page(block: str, service: RunningGateway, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(GOOD)
    (tmp_path / "block.py").write_text(block.replace("127.0.0.1:8500", service.grpc_address))
    done = run(sys.executable, "block.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
