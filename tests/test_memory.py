"""A rebuild keeps to its memory budget, or says at once that it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tiny
from proponent.attribution.gradients.layers import find_layers
from proponent.classifier import load_classifier
from proponent.errors import SpecError
from proponent.index.store import Store
from proponent.rebuild.memory import GIB, MIB, matrix_bytes
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

BUDGET = 384 * MIB
MODULE = """
import torch
from torch import nn


def wide():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 3),
    )


class Noise:
    def __len__(self):
        return 80

    def __getitem__(self, position):
        return torch.randn(3, 80, 80, generator=torch.Generator().manual_seed(position)), position % 3
"""
MEASURED = """
import re, sys, warnings
from pathlib import Path
import torch
from proponent.rebuilding import audited_rebuild
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions
from proponent.spec import load_spec
warnings.simplefilter("ignore")
import faiss, proponent.explainer
torch.linalg.eigh(torch.eye(50).double())
torch.nn.functional.conv2d(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))


def peak():
    # Not ru_maxrss: a child starts with what its parent held.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


before = peak()
audited_rebuild(load_spec(sys.argv[1]), Store(sys.argv[2]), RebuildOptions(memory=int(sys.argv[3]), quiet=True))
print(peak() - before)
"""


def test_large_pictures_are_taken_in_small_blocks(tmp_path: Path) -> None:
    """Blocks of 64 would take about 1.4 GiB here."""
    (tmp_path / "large_pictures.py").write_text(MODULE)
    namespace: dict[str, type[nn.Module]] = {}
    exec(MODULE, namespace)
    torch.manual_seed(0)
    save_file(namespace["wide"]().state_dict(), tmp_path / "weights.safetensors")
    content = {
        "name": "toy",
        "model": {"factory": "large_pictures:wide"},
        "weights": "weights.safetensors",
        "dataset": {"factory": "large_pictures:Noise"},
        "class_names": ["a", "b", "c"],
        "expected_accuracy": 0,
        "curvature": {"kind": "ekfac", "embedding_size": 20},
    }
    path = tiny.write(tmp_path, content)
    command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / "store"), str(BUDGET)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert 20 * MIB < int(done.stdout) <= BUDGET


@pytest.mark.parametrize("kind", ["exact", "ekfac"])
def test_matrices_that_do_not_fit_are_refused(tmp_path: Path, kind: str) -> None:
    spec = load_spec(tiny.project(tmp_path, curvature={"kind": kind}))
    classifier = load_classifier(spec)
    needed = matrix_bytes(kind, find_layers(classifier.model))
    with pytest.raises(SpecError, match=r"memory of .* MiB \(--memory\) is too small: the curvature of these 111"):
        rebuild(spec, Store(tmp_path / "store"), RebuildOptions(memory=needed - 1, quiet=True))
    assert Store(tmp_path / "store").models() == []


def test_a_basis_that_does_not_fit_is_refused_and_not_cut(tmp_path: Path) -> None:
    spec = load_spec(tiny.project(tmp_path, count=60, curvature={"kind": "ekfac", "embedding_size": 50}))
    layers = find_layers(load_classifier(spec).model)
    memory = matrix_bytes("ekfac", layers) + 1
    with pytest.raises(SpecError, match=r"a joint basis of 50 out of 111 directions takes about 0\.\d+ MiB"):
        rebuild(spec, Store(tmp_path / "store"), RebuildOptions(memory=min(memory, GIB), quiet=True))
