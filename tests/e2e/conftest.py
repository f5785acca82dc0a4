"""One trained model, one index and one service for all end-to-end tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import RunningGateway


def _cli(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "proponent.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model`` (weights and spec) and ``store``."""
    root = tmp_path_factory.mktemp("digits")
    _cli("train", "digits", "--out", str(root / "model"))
    _cli("rebuild", str(root / "model"), "--store", str(root / "store"), "--quiet")
    return root


@pytest.fixture(scope="session")
def service(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    log = tmp_path_factory.mktemp("service") / "gateway.log"
    gateway = RunningGateway(digits / "store", log, "--allow-examples", "--allow-thumbnails", "--allow-samples")
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()
