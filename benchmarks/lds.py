"""Linear datamodeling score of proponent (K = 768) and of Kronfluence's EK-FAC, side by side.

One line for each preset and training seed. Ground truth: 50 random half-subsets retrained from the same seed, and
their losses on 200 held-out queries; finished trainings are kept in ``--work`` and reused. Both sides sweep the same
dampings, in units of each layer's mean eigenvalue (Kronfluence's own heuristic is 0.1 of it; its scale is a module
constant, set here for the sweep), proponent also the second damping. Settings are chosen on queries 0..99 and
scored on 100..199. The interval is a bootstrap over those 100 queries of the ratio of the means.

Run: ``python benchmarks/lds.py --work DIRECTORY [--presets mnist-cnn,cifar10-cnn] [--seeds 0,1,2] [--jobs 2]``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kronfluence.factor.config as kronfluence_config
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from proponent.attribution.agreement import linear_datamodeling
from proponent.attribution.layers import find_layers
from proponent.audit.retraining import Retraining, half_subsets, retrained_losses
from proponent.classifier import Classifier, load_classifier
from proponent.presets import train_preset
from proponent.rebuild.compression import fit_compression, project_rows
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.stages import Stages
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec

DAMPINGS = (0.1, 1.0, 10.0, 100.0)
SECOND_DAMPINGS = (0.3, 1.0, 3.0)
SUBSETS, QUERIES = 50, 200
TUNE, TEST = slice(0, 100), slice(100, 200)


class Classification(Task):
    """Cross-entropy as training loss and as measurement, labels sampled for the true Fisher."""

    def compute_train_loss(self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        """The summed loss at the batch's labels, or at sampled ones."""
        inputs, labels = batch
        outputs = model(inputs)
        if sample:
            labels = torch.multinomial(outputs.detach().softmax(dim=1), 1).flatten()
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")

    def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
        """The summed loss at the true labels."""
        return self.compute_train_loss(batch, model)


def tensors(data: TrainingSet, positions: list[int]) -> TensorDataset:
    batch = data.batch(positions)
    return TensorDataset(batch.inputs, batch.labels)


def kronfluence_scores(
    of: Classifier, data: TrainingSet, held_out: TrainingSet, queries: list[int], work: Path
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Scores [Q, N] at every damping; factors are fitted once."""
    task = Classification()
    model = prepare_model(load_classifier(of.spec).model, task)
    analyzer = Analyzer("peer", model, task, cpu=True, output_dir=str(work), disable_tqdm=True)
    train, asked = tensors(data, list(range(len(data)))), tensors(held_out, queries)
    analyzer.fit_all_factors("ekfac", train, per_device_batch_size=500, factor_args=FactorArguments(strategy="ekfac"))
    for damping in DAMPINGS:
        kronfluence_config.HEURISTIC_DAMPING_SCALE = damping
        analyzer.compute_pairwise_scores(
            f"damping-{damping:g}",
            "ekfac",
            asked,
            train,
            per_device_query_batch_size=len(queries),
            per_device_train_batch_size=100,
            score_args=ScoreArguments(damping_factor=None),
        )
        found = analyzer.load_pairwise_scores(f"damping-{damping:g}")
        yield {"damping": damping}, found["all_modules"]


def proponent_scores(
    stages: Stages, held_out: TrainingSet, queries: list[int], work: Path
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Scores [Q, N] at every damping and second damping, as the bundle's rows would give them."""
    factors = fit_factors(stages)
    scaled, gradients = scaled_gradients(stages.classifier, stages.layers, held_out.batch(queries))
    for damping in DAMPINGS:
        here = replace(stages, workspace=Workspace(work / f"damping-{damping:g}", "k"))
        compression = fit_compression(here, factors, damping)
        shards = [here.workspace.load(name) for name in project_rows(here, compression)]
        y, scale = torch.cat([s["y"] for s in shards]).double(), torch.cat([s["scale"] for s in shards])
        asked = compression.coordinates(gradients).double() * scaled.scale[:, None]
        moment = (y * scale[:, None]).mT @ y / len(y)
        for second in SECOND_DAMPINGS:
            damped = moment + second * moment.trace() / len(moment) * torch.eye(len(moment), dtype=torch.float64)
            scores = torch.linalg.solve(damped, asked.mT).mT @ (y * scale[:, None]).mT
            yield {"damping": damping, "second_damping": second}, scores


def chosen(
    trials: Iterator[tuple[dict[str, Any], Tensor]], masks: Tensor, losses: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """The setting best on the tuning queries, and its score of every query."""
    best: tuple[float, dict[str, Any], Tensor] | None = None
    for setting, scores in trials:
        lds = linear_datamodeling(scores, masks, losses)
        print(f"  {setting} tune {float(lds[TUNE].mean()):.4f} test {float(lds[TEST].mean()):.4f}", flush=True)
        if best is None or float(lds[TUNE].mean()) > best[0]:
            best = (float(lds[TUNE].mean()), setting, lds)
    assert best is not None
    return best[1], best[2]


def interval(ours: Tensor, theirs: Tensor, draws: int = 5000) -> list[float]:
    """95 % of the ratio of the means over resampled queries."""
    picks = torch.randint(len(ours), (draws, len(ours)), generator=torch.Generator().manual_seed(0))
    ratios = ours[picks].mean(dim=1) / theirs[picks].mean(dim=1)
    return [round(float(q), 3) for q in ratios.quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype))]


def compare(preset: str, seed: int, work: Path, jobs: int) -> dict[str, Any]:
    directory = work / f"{preset}-{seed}"
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, seed=seed)
    spec = load_spec(directory)
    of = load_classifier(spec)
    data, held_out = TrainingSet.open(of, spec.dataset), TrainingSet.open(of, spec.held_out, "held_out")
    masks = half_subsets(len(data), SUBSETS, 1000 + seed)
    queries = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(77))[:QUERIES].tolist()
    quiet = StageProgress(quiet=True)
    losses = retrained_losses(Retraining(spec, seed, tuple(queries), directory / "retrained"), masks, quiet, jobs)
    scratch = directory / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    stages = Stages(of, data, find_layers(of.model), Workspace(scratch / "factors", "k"), 250, 8 << 30, quiet)
    start = time.perf_counter()
    print(f"{preset}, seed {seed}: proponent", flush=True)
    setting, ours = chosen(proponent_scores(stages, held_out, queries, scratch), masks, losses)
    middle = time.perf_counter()
    print(f"{preset}, seed {seed}: kronfluence", flush=True)
    peer_setting, theirs = chosen(kronfluence_scores(of, data, held_out, queries, scratch / "peer"), masks, losses)
    end = time.perf_counter()
    shutil.rmtree(scratch)
    row = {
        "preset": preset,
        "seed": seed,
        "proponent": float(ours[TEST].mean()),
        "kronfluence": float(theirs[TEST].mean()),
    }
    row |= {"ratio": row["proponent"] / row["kronfluence"], "interval_95": interval(ours[TEST], theirs[TEST])}
    row |= {"setting": setting, "peer_setting": peer_setting, "sweep_s": [round(middle - start), round(end - middle)]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps trained models and ground truth")
    parser.add_argument("--presets", default="mnist-cnn,cifar10-cnn")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lds.json"))
    options = parser.parse_args()
    found = []
    for seed, preset in itertools.product(options.seeds.split(","), options.presets.split(",")):
        found.append(compare(preset, int(seed), options.work, options.jobs))
        row = found[-1]
        print(
            f"{preset} seed {seed}: {row['proponent']:.4f} against {row['kronfluence']:.4f}, "
            f"{row['ratio']:.3f} x, 95 % {row['interval_95']}",
            flush=True,
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"subsets": SUBSETS, "queries": QUERIES, "results": found}, indent=1))


if __name__ == "__main__":
    main()
