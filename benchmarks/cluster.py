"""A rebuild on a cluster beside one in a process: what the engine costs, what a second worker gains, what travels.

Times are those of the stages, on a cluster of this machine whose workers are up; each is taken beside the others in
every round, and CPU seconds are those of the driver and its workers. What travels is counted, not timed: the bytes of
all parts of sums, and of everything else that workers save, for several numbers of rows.

Run: ``python benchmarks/cluster.py --work DIRECTORY [--rows 4000] [--rounds 3]``. The directory keeps a model.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchvision
from commands import RESULTS, write
from PIL import Image
from rebuild_cost import spec_of
from timing import now, taken
from torch.utils.flop_counter import FlopCounterMode

from proponent.attribution.gradients.layers import find_layers, num_parameters
from proponent.index.store import Store
from proponent.rebuild.cluster.executor import connected
from proponent.rebuild.context import Executor, InProcess
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.workspace import Workspace
from proponent.spec import ModelSpec


def workers_cpu() -> float:
    """CPU seconds of all workers of this machine."""
    ticks = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if (Path("/proc") / process / "cmdline").read_bytes().startswith(b"ray::Worker"):
                fields = (Path("/proc") / process / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:  # it has ended
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def timed(spec: ModelSpec, executor: Executor) -> dict[str, float]:
    """Wall and CPU seconds of a rebuild."""
    with tempfile.TemporaryDirectory() as work:
        start, begun = now(), workers_cpu()
        rebuild(spec, Store(Path(work)), RebuildOptions(quiet=True, publish=False, executor=executor))
        both = now() - start
        return {"wall_s": both.wall, "cpu_s": both.cpu + workers_cpu() - begun}


def times(spec: ModelSpec, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over rounds, in each of which a process, one worker and two come after each other."""
    found: dict[str, list[dict[str, float]]] = {"process": [], "1 worker": [], "2 workers": []}
    for _ in range(rounds):
        runs = {"process": timed(spec, InProcess())}
        for workers in (1, 2):
            with connected("local", workers) as executor:
                timed(spec, executor)  # imports, and the first reading of the data
                runs[f"{workers} worker" + "s" * (workers > 1)] = timed(spec, executor)
        for name, run in runs.items():
            found[name].append(run)
    return {
        name: {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        for name, runs in found.items()
    }


def travelled(spec: ModelSpec) -> dict[str, int]:
    """Bytes that are saved by stage, parts taken together."""
    saved: dict[str, int] = {}
    save = Workspace.save

    def counted(self: Workspace, stage: str, tensors: Mapping[str, torch.Tensor]) -> None:
        name = stage.rstrip("0123456789").rstrip("-")
        saved[name] = saved.get(name, 0) + sum(value.numel() * value.element_size() for value in tensors.values())
        save(self, stage, tensors)

    with tempfile.TemporaryDirectory() as work, patch.object(Workspace, "save", counted):
        rebuild(spec, Store(Path(work)), RebuildOptions(quiet=True, publish=False))
    return saved


NETWORKS = {"ResNet-50": torchvision.models.resnet50, "ViT-B/16": torchvision.models.vit_b_16}
PIXELS = 224


def counted(name: str) -> dict[str, Any]:
    """Sizes of a network's sums, and operations of a forward and backward of one image; nothing is timed."""
    model = NETWORKS[name](weights=None).eval()
    layers = find_layers(model)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, PIXELS, PIXELS)).sum().backward()
    return {
        "name": name,
        "parameters": sum(value.numel() for value in model.parameters()),
        "covered": num_parameters(layers),
        "covariance_bytes": 8 * sum(s.groups * (s.inputs**2 + s.out**2) for s in layers.values()),
        "eigenvalue_bytes": 8 * num_parameters(layers),
        "flops": counter.get_total_flops(),
    }


def decoding_ms() -> float:
    """CPU milliseconds of a photograph's decoding and reduction to a network's input, on one thread."""
    noise = np.random.default_rng(0).integers(0, 255, (47, 63, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)

    def decode() -> None:
        Image.open(buffer).convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)

    return round(statistics.median(1e3 * taken(decode).cpu for _ in range(50)), 2)


def main() -> None:
    """Measures, counts, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="mnist-cnn")
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = spec_of(options.preset, options.work, options.rows, None)
    sizes = [options.rows // 4, options.rows // 2, options.rows]
    figures = {
        "model": options.preset,
        "rows": options.rows,
        "rounds": options.rounds,
        "times": times(spec, options.rounds),
        "saved": [{"rows": n, "bytes": travelled(spec_of(options.preset, options.work, n, None))} for n in sizes],
        "networks": [counted(name) for name in NETWORKS],
        "decoding_ms": decoding_ms(),
    }
    for name, value in figures.items():
        print(name, value)
    write(options.out, figures)


if __name__ == "__main__":
    main()
