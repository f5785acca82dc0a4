"""Fixtures and options shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")
    parser.addoption("--switches", type=int, default=10, help="publishes and rollbacks under load")
    parser.addoption("--kills", type=int, default=5, help="kills of workers and TorchServe under load")
    parser.addoption("--record", type=Path, help="JSON file for what those two saw: benchmarks/results/faults.json")
    parser.addoption("--screenshots", type=Path, help="folder for the pictures that browser tests take: docs/images")


def pytest_configure() -> None:
    """Signals that nohup or a job in the background ignores would stay ignored in every process that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow, as the gate does")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of data files; tests that need it skip, saying why, where there is none."""
    value = os.environ.get("PROPONENT_DATA")
    if not value:
        pytest.skip("PROPONENT_DATA is not set: no data files to test with")
    root = Path(value)
    if not root.is_dir():
        pytest.skip(f"PROPONENT_DATA names no folder: {root}")
    return root
