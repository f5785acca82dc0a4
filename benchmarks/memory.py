"""Peak memory of a rebuild above what the libraries take, for pictures of several sizes and budgets.

A network of two 32-channel convolutions and 300 random pictures, one thread; each rebuild is a process of its own.

Run: ``python benchmarks/memory.py``. A few minutes. Linux only.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from commands import RESULTS, write
from safetensors.torch import save_file
from torch import Tensor, nn

from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions
from proponent.rebuilding import audited_rebuild
from proponent.spec import load_spec

MIB = 2**20
CASES = ((96, 1024), (96, 512), (80, 256))
"""Width of the pictures and budget in MiB."""
PICTURES, CLASSES = 300, 3


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, CLASSES),
    )


class Noise:
    """Random pictures, the same for every position."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(position)
        return torch.randn(3, self.width, self.width, generator=generator), position % CLASSES


def peak() -> int:
    """Bytes that this process has had resident at most; not ru_maxrss, which starts with the parent's."""
    told = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert told is not None
    return 1024 * int(told[1])


def measured(width: int, budget: int) -> int:
    """Bytes at most, beyond what there was before; the libraries' own buffers are taken first."""
    torch.set_num_threads(1)
    torch.linalg.eigh(torch.eye(50).double())
    nn.functional.conv2d(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = written(Path(work), width)
        before = peak()
        audited_rebuild(load_spec(spec), Store(Path(work) / "store"), RebuildOptions(memory=budget * MIB, quiet=True))
        return peak() - before


def written(directory: Path, width: int) -> Path:
    """A spec of the network with random weights."""
    torch.manual_seed(0)
    save_file(network().state_dict(), directory / "weights.safetensors")
    content: dict[str, Any] = {
        "name": "noise",
        "model": {"factory": "memory:network"},
        "weights": "weights.safetensors",
        "dataset": {"factory": "memory:Noise", "kwargs": {"width": width}},
        "class_names": [str(number) for number in range(CLASSES)],
        "loss": "cross_entropy",
        "expected_accuracy": 0.0,
        "weight_decay": 0.001,
        "curvature": {"kind": "ekfac", "embedding_size": 64},
    }
    (directory / "explain.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    options = parser.parse_args()
    rows = []
    for width, budget in CASES:
        with get_context("spawn").Pool(1) as pool:
            found = pool.apply(measured, (width, budget))
        rows.append({"width": width, "budget_mib": budget, "peak_mib": round(found / MIB)})
    write(options.out, {"pictures": PICTURES, "results": rows})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
