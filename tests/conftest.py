"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
