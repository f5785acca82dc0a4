"""What a rebuild costs beside the passes of its own model: CPU time of one thread.

A row's forward and backward, with the gradients of all parameters, are timed in the same process before and after
each rebuild, on blocks as large as its own. Two sizes of one training set give the marginal cost of a row.

Run: ``python benchmarks/rebuild_cost.py --work DIRECTORY [--sizes mnist-cnn=2000,4000 cifar10-resnet20=4000]``. The
directory keeps trained models.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from commands import RESULTS, write
from timing import rebuild_stages, taken

from proponent.classifier import Classifier, load_classifier
from proponent.rebuild.pipeline import RebuildOptions
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.spec import ModelSpec, load_spec
from proponent.training.train_preset import train_preset

SIZES = ("mnist-cnn=2000,4000", "cifar10-resnet20=4000")
BLOCK, BLOCKS = 64, 8


def spec_of(preset: str, work: Path, rows: int, epochs: int | None) -> ModelSpec:
    """A preset's model over its first ``rows`` examples."""
    directory = work / preset
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, epochs=epochs, limit=4000)
    spec = load_spec(directory)
    dataset = spec.dataset.model_copy(update={"kwargs": {**spec.dataset.kwargs, "limit": rows}})
    return spec.model_copy(update={"dataset": dataset, "expected_accuracy": 0.0})


def both_ways(classifier: Classifier, batch: Batch) -> None:
    """A step of training without the step."""
    parameters = [p for p in classifier.model.parameters() if p.requires_grad]
    losses = classifier.loss.per_example(classifier.model(batch.inputs), batch.labels)
    torch.autograd.grad(losses.sum(), parameters)


def measure(spec: ModelSpec) -> dict[str, Any]:
    """CPU seconds of a rebuild by stage, and CPU milliseconds of a row's forward and backward."""
    torch.set_num_threads(1)
    classifier = load_classifier(spec)
    data = TrainingSet.open(classifier, spec.dataset)
    blocks = [data.batch(range(start, start + BLOCK)) for start in range(0, BLOCKS * BLOCK, BLOCK)]

    def a_row() -> list[float]:
        return [1e3 * taken(lambda block=block: both_ways(classifier, block)).cpu / BLOCK for block in blocks]

    before = a_row()
    with tempfile.TemporaryDirectory() as work:
        stages = rebuild_stages(spec, Path(work), RebuildOptions(quiet=True))
    return {
        "rows": len(data),
        "forward_backward_ms": round(statistics.median(before[1:] + a_row()), 4),
        "rebuild_s": round(stages.pop("rebuild").cpu, 2),
        "stages_s": {name: round(value.cpu, 2) for name, value in stages.items()},
    }


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each rebuild in a process of its own."""
    for preset, sizes in (each.split("=") for each in options.sizes):
        found: list[dict[str, Any]] = []
        for rows in map(int, sizes.split(",")):
            spec = spec_of(preset, options.work, rows, options.epochs)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.append({"model": preset, **pool.apply(measure, (spec,))})
            row = found[-1]
            passes = row["rows"] * row["forward_backward_ms"] / 1e3
            yield row | {"to_an_epoch": round(row["rebuild_s"] / passes, 1)} | _marginal(found[0], row)


def _marginal(first: dict[str, Any], last: dict[str, Any]) -> dict[str, float]:
    """Milliseconds that a row more costs, and its forward and backward passes' worth; nothing at the first size."""
    more = last["rows"] - first["rows"]
    if not more:
        return {}
    each = 1e3 * (last["rebuild_s"] - first["rebuild_s"]) / more
    passes = (first["forward_backward_ms"] + last["forward_backward_ms"]) / 2
    return {"row_ms": round(each, 2), "row_to_forward_backward": round(each / passes, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that keeps trained models")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="PRESET=ROWS,...")
    parser.add_argument("--epochs", type=int, help="of the training, whose weights do not matter for the cost")
    parser.add_argument("--out", type=Path, default=RESULTS / "rebuild_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = [{**run, "load_average": round(os.getloadavg()[0], 1)} for run in runs(options)]
    write(options.out, {"results": loaded})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
