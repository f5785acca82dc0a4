"""The command that measures on a GPU runs as a whole on a processor, and says so where there is no GPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from test_architecture import ROOT


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = [str(ROOT / "benchmarks" / "gpu"), *map(str, arguments)]
    return subprocess.run(script, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = command("--out", tmp_path / "gpu.json")
    assert done.returncode == 1
    assert "no CUDA GPU was found on this machine" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_every_part_runs_on_a_processor(tmp_path: Path) -> None:
    done = command("--device", "cpu", "--small", "--out", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["card"] == "a processor"
    assert sum(found["tests"].values()) >= 2
    assert found["rebuild"]["ratio"] > 0
    assert found["agreement"]["kept"]
    assert [row["batch"] for row in found["rates"]] == [1, 4]
    assert all(row["explain_per_s"] > 0 and row["predict_per_s"] > 0 for row in found["rates"])
    assert [row["rows"] for row in found["scans"]] == [5_000, 20_000]
    assert all(row["recall"] > 0.9 for row in found["kernels"] if row["kernel"] == "float32 brute force")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        render = importlib.import_module("render")
    page = render.page("performance.md", {**render.results(), "gpu": found})
    assert "a processor, torch" in page
    assert "No figure exists" not in page
