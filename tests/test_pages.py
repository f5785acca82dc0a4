"""The pages of figures are made of what benchmarks found: no table by hand, and nothing that was not measured."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest

from test_architecture import ROOT

SIDE = {"per_second": 143.2, "p50_ms": 6.5, "p99_ms": 11.0, "errors": {}}
COST = {"gateway": 0.61, "java": 0.9, "workers": 1.5}
LOAD: dict[str, Any] = {
    "machine": "2 cores",
    "rounds": 3,
    "seconds": 3.0,
    "load_average": [0.1, 2.0],
    "matrix": [
        {
            "call": "gRPC Predict",
            "clients": 8,
            "gateway": {**SIDE, "cpu_ms_per_call": COST},
            "torchserve": {**SIDE, "errors": {"UNAVAILABLE": 2}, "cpu_ms_per_call": COST},
            "ratio": 0.71,
        }
    ],
    "beside": {
        **dict.fromkeys(("alone", "beside", "explaining"), SIDE),
        "predicting": 4,
        "explaining_clients": 32,
        "ratios": {"throughput": 0.55, "p99": 1.8},
    },
    "soak": None,
}


@pytest.fixture
def render() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("render")


@pytest.mark.parametrize("name", ["performance.md", "sizing.md", "scale.md"])
def test_a_page_is_made_of_the_results(render: Any, name: str) -> None:
    assert name in render.PAGES
    found = render.page(name, render.results())
    assert found == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run python benchmarks/render.py"


def test_another_figure_makes_another_page(render: Any) -> None:
    found = copy.deepcopy(render.results())
    found["kronfluence_lds"]["results"][0]["proponent"]["test"] = 0.12345
    assert "| 0.123 (" in render.page("performance.md", found)
    found["sizing"]["fits"]["search_1_s"]["slope"] *= 2
    assert render.page("sizing.md", found) != render.page("sizing.md", render.results())


def test_what_was_not_measured_is_not_told(render: Any) -> None:
    found = {name: figures for name, figures in render.results().items() if name != "scan"}
    with pytest.raises(jinja2.UndefinedError, match="scan"):
        render.page("performance.md", found)


def test_what_was_measured_under_load_stands_beside_what_was_wanted(render: Any) -> None:
    text = render.page("performance.md", {**render.results(), "load": LOAD})
    assert "| gRPC Predict | 8 | 143, 6.5, 11.0 | 143, 6.5, 11.0 | 0.71 (0.65) " in text
    assert "0.61 (0.5), 0.90, 1.50 | 2 TorchServe: UNAVAILABLE |" in text
    assert "throughput 0.55 (>= 0.5), p99 1.80 (<= 2)" in text
    assert "A soak of" not in text


def test_the_command_for_everything_names_benchmarks_that_are_there() -> None:
    line = [sys.executable, ROOT / "benchmarks" / "run_all.py"]
    listed = subprocess.run([*line, "--list"], check=True, capture_output=True, text=True).stdout
    scripts = {word for word in listed.split() if word.endswith(".py")}
    assert len(scripts) > 12 and all((ROOT / "benchmarks" / name).is_file() for name in scripts)
    unknown = (["--only", "speed"], "no benchmark 'speed', expected one of lds, ")
    for wrong, told in (unknown, ([], "--work DIRECTORY")):
        done = subprocess.run([*line, *wrong], capture_output=True, text=True)
        assert done.returncode == 1 and told in done.stderr
