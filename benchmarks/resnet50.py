"""ResNet-50 at 32 x 32 pixels: what embedding costs beside a plain forward and backward.

Three rates, interleaved, on random images with an untrained network (the cost does not depend on the weights):
plain forward + backward of the summed loss with parameter gradients; the query embedding (forward, backward,
phi); and the rebuild's embedding pass with full norms (y, ||C^-1 g||, g^T C^-1 g). Factors are fitted on
``--fit`` examples first, untimed.

Run: ``python benchmarks/resnet50.py [--stem cifar] [--batch 8] [--fit 64]``. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from commands import RESULTS, write

from proponent.attribution.embedding.subspace import SubspaceEmbedding
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layers import find_layers, num_parameters
from proponent.attribution.gradients.scaling import scaled_output_gradient
from proponent.classifier import Classifier, build_model, classifier_of
from proponent.rebuild import compression as passes
from proponent.rebuild.batching import Batching
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.ekfac import DEFAULT_DAMPING, fit_factors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import ModelSpec


class RandomImages:
    """Seeded noise with random labels, as tensors."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randn(count, 3, 32, 32, generator=generator)
        self._labels = torch.randint(10, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self._images[position], self._labels[position]


def classifier(stem: str, fit: int) -> Classifier:
    torch.manual_seed(0)
    spec = ModelSpec.model_validate(
        {
            "name": "resnet50",
            "model": {"factory": "proponent.models.resnet50:resnet50", "kwargs": {"classes": 10, "stem": stem}},
            "weights": "none",
            "dataset": {"factory": "benchmarks:none"},
            "class_names": [str(number) for number in range(10)],
            "expected_accuracy": 0,
            "device": "cpu",
            "curvature": {"kind": "ekfac", "fit_examples": fit, "subspace_size": 32768},
        }
    )
    return classifier_of(spec, build_model(spec))


def plain(of: Classifier, batch: Batch) -> None:
    of.model.zero_grad()
    of.loss.per_example(of.model(batch.inputs), batch.labels).sum().backward()


def query(of: Classifier, embedding: SubspaceEmbedding, batch: Batch) -> None:
    with CaptureSession(of.model, embedding.layers) as session:
        scaled = scaled_output_gradient(of.loss, session.forward(batch.inputs), batch.labels)
        embedding.embed(session.backward(scaled.unit))


def rates(runs: dict[str, Callable[[], object]], batch: int, repeats: int) -> dict[str, float]:
    """Median images per second of each, measured in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                found[name].append(batch / (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stem", choices=("cifar", "imagenet"), default="cifar")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--fit", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "resnet50.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    of = classifier(options.stem, options.fit)
    layers = find_layers(of.model)
    data = TrainingSet(RandomImages(max(options.fit, options.batch)), of)
    with tempfile.TemporaryDirectory() as work:
        context = RebuildContext(
            of, layers, data, Batching.of(options.batch), Workspace(Path(work) / "w", "k"), StageProgress()
        )
        with context.progress:
            fitted, _ = passes.compress(context, fit_factors(context), DEFAULT_DAMPING)
        embedding = SubspaceEmbedding(layers, fitted.subspaces, fitted.basis)
        batch = data.batch(range(options.batch))
        found = rates(
            {
                "plain forward + backward": lambda: plain(of, batch),
                "query embedding": lambda: query(of, embedding, batch),
                "rebuild's embedding pass": lambda: passes.project_all(context, fitted, range(options.batch)),
            },
            options.batch,
            options.repeats,
        )
    base = found["plain forward + backward"]
    targets = {"query embedding": 0.4, "rebuild's embedding pass": 0.2}
    print(f"{'':28} {'images/s':>9} {'share':>6} {'target':>6}")
    for name, rate in found.items():
        print(f"{name:28} {rate:>9} {rate / base:>6.2f} {targets.get(name, ''):>6}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    setting = {"stem": options.stem, "batch": options.batch, "fit": options.fit, "parameters": num_parameters(layers)}
    sizes = {"D": embedding.joint.shape[0], "K": embedding.size, "peak_gib": round(peak, 2)}
    write(options.out, {**setting, **sizes, "images_per_second": found}, options.threads)


if __name__ == "__main__":
    main()
