"""A rebuild on a cluster beside one in a process, and what rows in shards cost the worker that asks.

Times are those of the stages, on a cluster of this machine whose workers are up; each is taken beside the others in
every round, and CPU seconds are those of the driver and its workers. Two rebuilds at once, in processes that have
nothing to do with each other, show what the machine gives two of them. What travels is counted, not timed: the bytes
of all parts of sums, and of everything else that workers save, for several numbers of rows, of chunks and of
parameters.

Run: ``python benchmarks/cluster.py --work DIRECTORY [--timed mnist-cnn=4000] [--rounds 3]``. The directory keeps
models; ``--only`` measures a part of the figures again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch
import torchvision
from commands import RESULTS, write
from PIL import Image
from rebuild_cost import spec_of
from timing import now, taken
from torch.utils.flop_counter import FlopCounterMode

from proponent.attribution.gradients.layers import find_layers, num_parameters
from proponent.classifier import load_classifier
from proponent.index.row_store import ResidentRows
from proponent.index.rows import InfluenceIndex
from proponent.index.scan import Query
from proponent.index.search import search
from proponent.index.searchable import RowScales
from proponent.index.store import Store
from proponent.options import Measure
from proponent.rebuild import batching
from proponent.rebuild.cluster.executor import connected
from proponent.rebuild.context import Executor, InProcess
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.workspace import Workspace
from proponent.shards.shard import stretches
from proponent.shards.sharded_index import ShardedIndex
from proponent.spec import ModelSpec


def workers_cpu() -> dict[int, float]:
    """CPU seconds of all workers of this machine, by process."""
    found: dict[int, float] = {}
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::Worker"):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                found[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:  # it has ended
            continue
    return found


def measured(spec: ModelSpec, executor: Executor) -> dict[str, float]:
    """Wall seconds of a rebuild, and CPU seconds of all, of the driver and of the busiest worker."""
    with tempfile.TemporaryDirectory() as work:
        begun, start = workers_cpu(), now()
        rebuild(spec, Store(Path(work)), RebuildOptions(quiet=True, publish=False, executor=executor))
        driver = now() - start
        ended = {} if isinstance(executor, InProcess) else workers_cpu()
        spent = [cpu - begun.get(process, 0.0) for process, cpu in ended.items()]
    return {
        "wall_s": driver.wall,
        "cpu_s": driver.cpu + sum(spent),
        "driver_s": driver.cpu,
        "busiest_s": max(spent, default=0.0),
    }


TIMED = ("mnist-cnn=4000", "cifar10-resnet20=4000")
"""Models, and the rows of each."""
WARMING_ROWS = 200
"""Rows of a rebuild that is not counted: a new worker imports what it needs."""


def times(preset: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over rounds, in each of which a process and the workers of a cluster come after each other."""
    spec, rounds = spec_of(preset, options.work, rows, options.epochs), options.rounds
    few = spec_of(preset, options.work, WARMING_ROWS, options.epochs)
    found: dict[str, list[dict[str, float]]] = {"process": [], "1 worker": [], "2 workers": []}
    for workers, name in ((1, "1 worker"), (2, "2 workers")):
        with connected("local", workers) as executor:
            measured(few, executor)  # imports
            for _ in range(rounds):
                found["process"].append(measured(spec, InProcess()))
                found[name].append(measured(spec, executor))
    medians = {
        name: {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        for name, runs in found.items()
    }
    beside, load = at_once(few, spec) / medians["process"]["cpu_s"], round(os.getloadavg()[0], 1)
    found_too = {"load_average": load, "beside_another": round(beside, 3), "times": medians}
    return {"model": preset, "rows": rows, "rounds": rounds} | found_too


def at_once(few: ModelSpec, spec: ModelSpec) -> float:
    """CPU seconds of a rebuild while another process does the same; the mean of both."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for done in [pool.submit(measured, few, InProcess()) for _ in range(2)]:  # imports
            done.result()
        runs = [pool.submit(measured, spec, InProcess()) for _ in range(2)]
        return statistics.mean(run.result()["cpu_s"] for run in runs)


MERGED_ROWS, MERGED_SHARDS, TOP, BATCHES = 65_536, (1, 4, 16, 64), 10, (1, 16)


def merging() -> list[dict[str, Any]]:
    """CPU milliseconds of a worker for a batch's lists, from the answers of so many scanners."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.nn.functional.normalize(torch.randn(MERGED_ROWS, 64, generator=generator), dim=1).half()
    norms = torch.rand(MERGED_ROWS, generator=generator).double() + 0.5
    scales = RowScales(norms, norms, norms, norms, norms > 0, norms)
    found = []
    for shards in MERGED_SHARDS:
        places = stretches(MERGED_ROWS, shards)
        parts = [
            InfluenceIndex(
                None, ResidentRows(codes[each]), RowScales(**{n: c[each] for n, c in vars(scales).items()}), 64
            )
            for each in places
        ]
        for batch in BATCHES:
            directions = torch.nn.functional.normalize(torch.randn(batch, 64, generator=generator), dim=1)
            answers = _Answered(
                {
                    n: part.scan(directions, [TOP] * batch, [None] * batch, tuple(Measure)).read()
                    for n, part in enumerate(parts)
                }
            )
            index = ShardedIndex(answers, places, scales, 64)
            queries = [Query(direction, 1.0, TOP) for direction in directions]
            search(index, queries, tuple(Measure))
            spent = [1e3 * taken(lambda: search(index, queries, tuple(Measure))).cpu for _ in range(50)]  # noqa: B023
            found.append({"shards": shards, "batch": batch, "ms": round(statistics.median(spent), 2)})
    return found


class _Answered:
    """Scanners that have answered already, so that what is left is the worker's."""

    def __init__(self, answers: Mapping[int, Any]) -> None:
        self._answers = answers

    def begin(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> Callable[[], Mapping[int, Any]]:
        return lambda: self._answers

    def check(self) -> None:
        return

    def wait(self, patience_s: float) -> None:
        return


def calls() -> dict[str, float]:
    """Wall milliseconds, medians, of a batch that is sent to scanners of a cluster and back, beside what they do."""
    found = {}
    for count in (1, 2, 4):
        with connected("local", 0):
            actors = [ray.remote(num_cpus=0)(_Echo).remote() for _ in range(count)]
            batch = np.zeros((16, 768), np.float32)
            ray.get([actor.echo.remote(batch) for actor in actors])
            spent = [taken(lambda: ray.get([a.echo.remote(batch) for a in actors])).wall for _ in range(200)]  # noqa: B023
            found[str(count)] = round(1e3 * statistics.median(spent), 2)
    return found


class _Echo:
    def echo(self, value: Any) -> Any:
        """What it is given."""
        return value


def travelled(preset: str, rows: int, chunk: int, options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that are saved by stage, parts taken together."""
    saved: dict[str, int] = {}
    save = Workspace.save

    def counted(self: Workspace, stage: str, tensors: Mapping[str, torch.Tensor]) -> None:
        name = re.sub(r"(-\d+)+$", "", stage)
        saved[name] = saved.get(name, 0) + sum(value.numel() * value.element_size() for value in tensors.values())
        save(self, stage, tensors)

    spec = spec_of(preset, options.work, rows, options.epochs).model_copy(update={"samples": 0})
    with (
        tempfile.TemporaryDirectory() as work,
        patch.object(Workspace, "save", counted),
        patch.object(batching, "CHUNK", chunk),
    ):
        rebuild(spec, Store(Path(work)), RebuildOptions(quiet=True, publish=False))
    parameters = num_parameters(load_classifier(spec).find_layers())
    return {"model": preset, "parameters": parameters, "rows": rows, "chunk": chunk, "bytes": saved}


SAVED = (
    ("mnist-cnn", 500, batching.CHUNK),
    ("mnist-cnn", 1000, batching.CHUNK),
    ("mnist-cnn", 2000, batching.CHUNK),
    ("mnist-cnn", 2000, batching.CHUNK // 4),
    ("cifar10-resnet20", 1000, batching.CHUNK),
)
"""Model, rows and rows of a chunk: each differs from one before in one of the three."""
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
    parser.add_argument("--timed", nargs="+", default=TIMED, metavar="PRESET=ROWS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of trainings, whose weights do not matter for the cost")
    parser.add_argument("--only", nargs="*", choices=["times", "saved", "networks", "shards"], default=[])
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timed = [(preset, int(rows)) for preset, rows in (each.split("=") for each in options.timed)]
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "times": lambda: {"timed": [times(*each, options) for each in timed]},
        "saved": lambda: {"saved": [travelled(*each, options) for each in SAVED]},
        "networks": lambda: {"networks": [counted(name) for name in NETWORKS], "decoding_ms": decoding_ms()},
        "shards": lambda: {"merging": merging(), "calls_ms": calls()},
    }
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.only else {}
    figures: dict[str, Any] = {name: part for name, part in kept.items() if name not in ("machine", "versions")}
    for name in options.only or parts:
        figures |= parts[name]()
        print(name, figures)
    write(options.out, figures)


if __name__ == "__main__":
    main()
