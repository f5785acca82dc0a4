"""One trained model, one index and one service for all end-to-end tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# A TorchServe of a test lives for seconds: to compile its code once more, thoroughly, costs more than it saves.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

from recording import Record
from running import RunningGateway, cli


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model`` (weights and spec) and ``store``."""
    root = tmp_path_factory.mktemp("digits")
    cli("train", "digits", "--out", str(root / "model"))
    cli("rebuild", str(root / "model"), "--store", str(root / "store"), "--quiet")
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


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Record:
    return Record(pytestconfig.getoption("record"))
