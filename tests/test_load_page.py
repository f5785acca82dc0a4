"""The tables of the load are made of the results, and stand where the last ones stood."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from test_architecture import ROOT

SIDE = {"per_second": 143.2, "p50_ms": 6.5, "p99_ms": 11.0, "errors": {}}
COST = {"gateway": 0.61, "java": 0.9, "workers": 1.5}
RESULTS: dict[str, Any] = {
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


def module() -> Any:
    spec = importlib.util.spec_from_file_location("load_page", ROOT / "benchmarks" / "load_page.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_what_was_measured_stands_beside_what_was_wanted() -> None:
    text = module().section(RESULTS)
    assert "| gRPC Predict | 8 | 143, 6.5, 11.0 | 143, 6.5, 11.0 | 0.71 (0.65) " in text
    assert "0.61 (0.5), 0.90, 1.50 | 2 TorchServe: UNAVAILABLE |" in text
    assert "throughput 0.55 (>= 0.5), p99 1.80 (<= 2)" in text
    assert "soak" not in text


def test_new_tables_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    page, load = tmp_path / "performance.md", module()
    page.write_text((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    load.write(RESULTS, page)
    once = page.read_text(encoding="utf-8")
    load.write(RESULTS, page)
    assert page.read_text(encoding="utf-8") == once and once.count("| gRPC Predict | 8 |") == 1
    assert once.partition("## Under load")[0].count("\n#") > 3 and "\n## Switching\n" in once
    (tmp_path / "other.md").write_text("no tables")
    with pytest.raises(SystemExit, match="no place"):
        load.write(RESULTS, tmp_path / "other.md")
