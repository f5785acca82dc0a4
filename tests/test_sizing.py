"""The sizing page is made of measured figures: no number is written by hand, its lines are those of the points."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from test_architecture import ROOT

SCRIPT = ROOT / "benchmarks" / "sizing_page.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("sizing_page", SCRIPT)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def results() -> dict[str, Any]:
    return dict(json.loads((ROOT / "benchmarks" / "results" / "sizing.json").read_text(encoding="utf-8")))


def test_the_lines_are_those_of_the_points() -> None:
    found = results()
    again = module().fits(found["searches"], found["models"])
    assert again.keys() == found["fits"].keys()
    for name, line in again.items():
        assert line == pytest.approx(found["fits"][name]), name


def test_a_line_says_how_far_its_points_lie_off() -> None:
    straight = module().line([(1, 3), (2, 5), (4, 9)])
    assert straight == pytest.approx({"at_zero": 1, "slope": 2, "off": 0}, abs=1e-9)
    assert module().line([(0, 0), (1, 10), (2, 0)])["off"] > 0.3
    assert [module().amount(n) for n in (1500, 2.5e6, 3.14e9, 5e12)] == ["1.5 kB", "2.5 MB", "3.14 GB", "5e+03 GB"]


def test_memory_and_time_grow_with_what_they_depend_on() -> None:
    sized = module().sized
    small, wide, long, large = (
        sized(results(), *what) for what in ((1e5, 256, 1e5), (1e5, 768, 1e5), (1e6, 256, 1e5), (1e5, 256, 1e7))
    )
    assert wide["row_bytes"] > 2 * small["row_bytes"] and long["row_bytes"] == pytest.approx(10 * small["row_bytes"])
    assert min(wide["latency_s"], long["latency_s"], large["latency_s"]) > small["latency_s"]
    assert large["worker_bytes"] > small["worker_bytes"] == long["worker_bytes"]


@pytest.mark.slow
def test_the_script_measures_all_that_its_page_says(tmp_path: Path) -> None:
    found = tmp_path / "results.json"
    line = [sys.executable, ROOT / "benchmarks" / "sizing.py", "--quick", "--out", found]
    printed = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    measured = json.loads(found.read_text())
    assert printed.startswith("# Sizing") and f"| {measured['searches'][0]['rows']:,} |" in printed
    assert min(measured["service"].values()) > 0 and min(s["search_1_s"] for s in measured["searches"]) > 0
