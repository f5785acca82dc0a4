"""Do the intervals of an audit cover? A bank of retrained models, of which an audit would see a few.

A small CNN on digits is retrained on many halves, a seed each. The score over all the halves of the bank stands for
the truth; random draws of a few halves each give a score and its interval, which should hold the truth as often as it
says. Beside it the interval of a bootstrap over the queries alone, as if the retrained models were no sample.

Run: ``python benchmarks/interval_coverage.py --work DIRECTORY [--bank 144]``. About 10 minutes; the bank is kept.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from commands import RESULTS, proponent, trained, write
from safetensors.torch import save_file
from torch import Tensor

from proponent.attribution.agreement import spearman
from proponent.audit.datamodel import AUDIT, ground_truth
from proponent.audit.intervals import two_way_interval
from proponent.audit.scoring import influence_matrix, open_bundle
from proponent.index.store import Store
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import trained_model
from proponent.spec import load_spec

QUERIES, DRAWS, DRAWN_FROM = 100, 40, 96
SIZES = (8, 16, 32)


def model(work: Path) -> Path:
    """The digits' data with a small convolutional network."""
    directory = work / "digits-cnn"
    content = yaml.safe_load((trained("digits", work) / "explain.yaml").read_text(encoding="utf-8"))
    weights = directory / content["weights"]
    if weights.exists():
        return directory
    content |= {
        "name": "digits-cnn",
        "model": {
            "factory": "proponent.models.small_cnn:SmallCNN",
            "kwargs": {"channels": 1, "classes": 10, "size": 8, "first": 8, "second": 16, "hidden": 32},
        },
        "curvature": {"kind": "ekfac", "embedding_size": 256},
        "weight_decay": 0.001,
        "expected_accuracy": 0.9,
        "training": {
            "factory": content["training"]["factory"],
            "kwargs": {"optimizer": "sgd", "lr": 0.05, "epochs": 15, "batch_size": 64},
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "explain.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    network = trained_model(load_spec(directory), None, seed=0)
    save_file(dict(network.state_dict()), weights)
    return directory


def bank(work: Path, halves: int, jobs: int) -> tuple[Tensor, Tensor]:
    """Predicted and real changes of the queries' losses by half, [Q, S] each."""
    directory = model(work)
    store = Store(directory / "store")
    proponent("rebuild", directory, "--store", store.root, "--quiet", "--json")
    context = open_bundle(store.current("digits-cnn"))
    truth = ground_truth(
        context.explainer.classifier.spec,
        work / "bank",
        context.data,
        context.held_out,
        purpose=AUDIT,
        subsets=halves,
        queries=QUERIES,
        seeds=1,
        jobs=jobs,
        progress=StageProgress(quiet=True),
    )
    predicted = influence_matrix(context, truth.positions) @ truth.subsets.double().mT
    return predicted, -truth.losses.mT


def score(predicted: Tensor, real: Tensor) -> Tensor:
    return spearman(predicted, real).mean()


def draws(predicted: Tensor, real: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random halves of the first ``DRAWN_FROM``, as so many audits would see."""
    generator = torch.Generator().manual_seed(size)
    for _ in range(DRAWS):
        chosen = torch.randperm(min(DRAWN_FROM, predicted.shape[1]), generator=generator)[:size]
        yield predicted[:, chosen], real[:, chosen]


def over_queries(predicted: Tensor, real: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval over the queries alone."""
    each = spearman(predicted, real)
    picks = torch.randint(len(each), (500, len(each)), generator=torch.Generator().manual_seed(0))
    low, high = each[picks].mean(dim=1).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def coverage(predicted: Tensor, real: Tensor, size: int) -> dict[str, Any]:
    """How often the intervals of so many halves hold the score of the whole bank."""
    truth = float(score(predicted, real))
    found = [
        (float(score(*drawn)), over_queries(*drawn), two_way_interval(score, *drawn, correlation=True))
        for drawn in draws(predicted, real, size)
    ]
    shares = [
        sum(low <= truth <= high for low, high in intervals) / len(found)
        for intervals in ([one for _, one, _ in found], [two for _, _, two in found])
    ]
    return {
        "halves": size,
        "mean": statistics.mean(mean for mean, _, _ in found),
        "covered_over_queries": shares[0],
        "covered": shares[1],
        "width": statistics.mean(high - low for _, _, (low, high) in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument("--bank", type=int, default=144, help="halves retrained")
    parser.add_argument("--jobs", type=int, default=1, help="processes that retrain")
    parser.add_argument("--out", type=Path, default=RESULTS / "interval_coverage.json")
    options = parser.parse_args()
    predicted, real = bank(options.work, options.bank, options.jobs)
    rows = [coverage(predicted, real, size) for size in SIZES]
    setting = {"bank": options.bank, "queries": QUERIES, "draws": DRAWS, "score": float(score(predicted, real))}
    write(options.out, {**setting, "results": rows})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
