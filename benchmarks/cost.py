"""What a rebuild and a query cost as the training set grows, and as the model does.

N: the small CNN on growing parts of CIFAR-10's JPEG copy, factors and subspaces fitted on at most 10,000 examples as
always. P: several networks, trained for one epoch (the cost does not depend on the weights), on 256 examples.
Every rebuild is a process of its own, so that its peak memory is its own.

Run: ``python benchmarks/cost.py --work DIRECTORY [--sizes 1000,...] [--memory 8]``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from commands import RESULTS, write
from memory import peak
from timing import rebuild_stages, taken

from proponent.attribution.gradients.layers import find_layers, num_parameters
from proponent.classifier import load_classifier
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.memory import GIB
from proponent.rebuild.pipeline import RebuildOptions
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, load_spec
from proponent.training.train_preset import train_preset

GROWING = "cifar10-cnn-50k"
NETWORKS = ("mnist-cnn", "cifar10-cnn", "cifar10-resnet20", "cifar10-efficientnet-b0")
ROWS, QUERIES = 256, 32


def spec_of(preset: str, work: Path, limit: int) -> ModelSpec:
    """A preset's model after one epoch, over its first ``limit`` examples."""
    directory = work / f"{preset}-cost"
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, epochs=1, limit=2000)
    spec = load_spec(directory)
    dataset = spec.dataset.model_copy(update={"kwargs": {**spec.dataset.kwargs, "limit": limit}})
    return spec.model_copy(update={"dataset": dataset, "expected_accuracy": 0.0})


def measure(spec: ModelSpec, memory: int, threads: int) -> dict[str, Any]:
    """One rebuild and some queries, in this process."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as work:
        stages = rebuild_stages(spec, Path(work), RebuildOptions(memory=memory, quiet=True))
        most = peak()
        bundle = Store(Path(work) / "store").current(spec.name)
        explainer = Explainer.load(bundle)
        classifier = load_classifier(spec)
        inputs = TrainingSet.open(classifier, spec.dataset).batch(range(QUERIES)).inputs
        explainer.explain([inputs[0]], [ExplainOptions()])
        times = [taken(lambda value=value: explainer.explain([value], [ExplainOptions()])).wall for value in inputs]
        return {
            "parameters": num_parameters(find_layers(classifier.model)),
            "rebuild_s": stages["rebuild"].wall,
            "stages_s": {name: value.wall for name, value in stages.items()},
            "peak_gib": most / GIB,
            "bundle_mb": sum(path.stat().st_size for path in bundle.iterdir()) / 1e6,
            "query_ms": 1e3 * statistics.median(times),
        }


def alone(spec: ModelSpec, options: argparse.Namespace) -> dict[str, Any]:
    """``measure`` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (spec, options.memory * GIB, options.threads))


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """First by N, then by P."""
    for size in options.sizes:
        yield {"by": "N", "model": GROWING, "rows": size, **alone(spec_of(GROWING, options.work, size), options)}
    for preset in options.networks:
        yield {"by": "P", "model": preset, "rows": ROWS, **alone(spec_of(preset, options.work, ROWS), options)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that keeps trained models")
    parser.add_argument("--sizes", type=_numbers, default=[1000, 2000, 5000, 10_000, 20_000, 50_000])
    parser.add_argument("--networks", type=lambda text: text.split(",") if text else [], default=NETWORKS)
    parser.add_argument("--memory", type=int, default=8, help="of a rebuild, GiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cost.json")
    options = parser.parse_args()
    print("| model | P | N | rebuild | last pass, per row | peak memory | bundle | query |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    for row in rows(options):
        found.append(row)
        each = 1e3 * row["stages_s"]["project"] / row["rows"]
        print(
            f"| {row['model']} | {row['parameters']:,} | {row['rows']:,} | {row['rebuild_s']:.0f} s | {each:.2f} ms "
            f"| {row['peak_gib']:.1f} GiB | {row['bundle_mb']:.0f} MB | {row['query_ms']:.1f} ms |",
            flush=True,
        )
    write(options.out, {"memory_gib": options.memory, "results": found}, options.threads)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")] if text else []


if __name__ == "__main__":
    main()
