"""What an explanation costs beside the passes of its own model: CPU time of one process, all six lists.

Forward, forward and backward (with the gradients of all parameters), Predict and Explain take turns on the same
inputs, and medians of CPU time are compared, so that other work on the machine counts little. Stages are those that
replies report, by the same clock.

Run: ``python benchmarks/explain_cost.py --work DIRECTORY [--presets mnist-cnn,cifar10-resnet20] [--epochs 1]``. The
directory keeps trained models and bundles; a bundle that is there is measured as it is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from commands import RESULTS, write
from safetensors.torch import load_file
from timing import taken
from torch import Tensor

from proponent.attribution.gradients.layers import num_parameters
from proponent.explainer import Explainer
from proponent.index.bundle import FACTORS
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, load_spec
from proponent.training.train_preset import train_preset

PRESETS = ("mnist-cnn", "cifar10-resnet20")


def spec_of(preset: str, options: argparse.Namespace) -> ModelSpec:
    """A preset's trained model."""
    directory = options.work / preset
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, epochs=options.epochs, limit=options.limit)
    return load_spec(directory)


def bundle_of(spec: ModelSpec, work: Path) -> Path:
    """The current bundle, which is built where there is none."""
    store = Store(work / "store")
    if not (store.directory(spec.name) / "current").exists():
        rebuild(spec, store, RebuildOptions(quiet=True))
    return store.current(spec.name)


def both_ways(explainer: Explainer, inputs: Tensor, labels: Tensor) -> None:
    """A step of training without the step."""
    classifier = explainer.classifier
    parameters = [p for p in classifier.model.parameters() if p.requires_grad]
    torch.autograd.grad(classifier.loss.per_example(classifier.model(inputs), labels).sum(), parameters)


def forward(explainer: Explainer, inputs: Tensor) -> None:
    """The model alone."""
    with torch.inference_mode():
        explainer.classifier.model(inputs)


def measure(explainer: Explainer, inputs: Tensor, labels: Tensor, rounds: int) -> dict[str, Any]:
    """Median CPU milliseconds of each call, and of each stage of an explanation."""
    values, options = list(inputs), [ExplainOptions()] * len(inputs)
    stages: list[dict[str, float]] = []

    def explain() -> None:
        stages.append(dict(explainer.explain(values, options)[-1].timings))

    calls: dict[str, Callable[[], None]] = {
        "forward": lambda: forward(explainer, inputs),
        "forward_backward": lambda: both_ways(explainer, inputs, labels),
        "predict": lambda: explainer.predict(values),
        "explain": explain,
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    with patch("proponent.stages.time", SimpleNamespace(monotonic_ns=time.process_time_ns)):
        for turn in range(rounds + 2):
            for name, call in calls.items():
                seconds = taken(call).cpu
                if turn >= 2:
                    found[name].append(1e3 * seconds)
    middle = {name: round(statistics.median(times), 3) for name, times in found.items()}
    parts = {name: round(1e3 * statistics.median(s[name] for s in stages[2:]), 3) for name in stages[0]}
    ratios = {f"to_{name}": round(middle["explain"] / middle[name], 2) for name in ("predict", "forward_backward")}
    return {"batch": len(inputs), **middle, **ratios, "stages": parts}


def rows(preset: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One model by batch."""
    bundle = bundle_of(spec_of(preset, options), options.work)
    explainer = Explainer.load(bundle)
    held_out = TrainingSet.open(explainer.classifier, explainer.classifier.spec.held_out, "held_out")
    batch = held_out.batch(range(max(options.batches)))
    about = {
        "model": preset,
        "parameters": num_parameters(explainer.classifier.find_layers()),
        "rows": len(explainer.index),
        "subspace": int(load_file(bundle / FACTORS)["joint"].shape[0]),
    }
    for size in options.batches:
        yield about | measure(explainer, batch.inputs[:size], batch.labels[:size], options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that keeps models and bundles")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=PRESETS)
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epochs", type=int, help="of the training, whose weights do not matter for the cost")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=RESULTS / "explain_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write(options.out, {"results": [row for preset in options.presets for row in rows(preset, options)]})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
