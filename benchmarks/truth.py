"""What linear datamodeling scores are held against: a preset's model, halves of its data and the losses of those."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from proponent.attribution.agreement import spearman
from proponent.audit.datamodel import SEEDS_APART
from proponent.audit.retraining import Retraining, half_subsets, retrained_losses
from proponent.classifier import Classifier, load_classifier
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import load_spec
from proponent.training.train_preset import train_preset

SUBSETS, QUERIES = 50, 200


@dataclass(frozen=True)
class Truth:
    """A preset's model, and what is retrained beside it.

    Attributes:
        seed: Of the model.
        directory: Of the model; keeps the losses.
        of: The model.
        data: Its training set.
        held_out: Its held-out set.
        queries: Positions in the held-out set, the same for all seeds.
        masks: Halves of the training set, [S, N] bool.
    """

    seed: int
    directory: Path
    of: Classifier
    data: TrainingSet
    held_out: TrainingSet
    queries: list[int]
    masks: Tensor

    def retraining(self, training: int = 0) -> Retraining:
        """One more training of each half, with seeds of its own."""
        first = 1000 * (self.seed + 1) + training * SEEDS_APART
        place = self.directory / f"retrained-own-seeds{f'-{training}' if training else ''}"
        return Retraining(self.of.spec, tuple(range(first, first + len(self.masks))), tuple(self.queries), place)

    def runs(self, trainings: int, jobs: int) -> Tensor:
        """Losses [R, S, Q] float64 of the models retrained; those that are kept are not retrained again."""
        quiet = StageProgress(quiet=True)
        return torch.stack(
            [retrained_losses(self.retraining(number), self.masks, quiet, jobs) for number in range(trainings)]
        )

    def repeats(self, trainings: int) -> dict[str, float | int | None]:
        """How far one training of a half agrees with another, over as many halves as a second one is kept of.

        Args:
            trainings: R, whose mean losses scores are held against.

        Returns:
            ``reliability`` (correlation of two trainings), ``reliability_of`` so many halves, and ``ceiling``: what a
            score that knew the expected losses would have.
        """
        first, second = (self.retraining(number).directory for number in range(2))
        names = sorted(file.name for file in second.glob("model-*.safetensors"))
        if not names:
            return {"reliability": None, "reliability_of": None, "ceiling": None}
        losses = (torch.stack([load_file(place / name)["losses"] for name in names]) for place in (first, second))
        found = max(float(spearman(*(each.mT for each in losses)).mean()), 0.0)
        ceiling = sqrt(trainings * found / (1 + (trainings - 1) * found))
        return {"reliability": found, "reliability_of": len(names), "ceiling": ceiling}

    def summed(self, scores: Tensor) -> Tensor:
        """What scores [Q, N] add up to over each half, [Q, S] float64: all that is held against the truth."""
        return scores.double().cpu() @ self.masks.double().mT

    def scored(self, sums: Tensor, runs: Tensor) -> Tensor:
        """Linear datamodeling score of each query, [Q], of summed scores against the mean over trainings."""
        return spearman(sums, -runs.mean(dim=0).mT)


def open_truth(preset: str, seed: int, work: Path, limit: int | None = None) -> Truth:
    """The model of a preset, trained unless the directory has it; with a ``limit`` on so many examples alone."""
    directory = work / (f"{preset}-{seed}" if limit is None else f"{preset}-{limit}-{seed}")
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, seed=seed, limit=limit)
    of = load_classifier(load_spec(directory))
    data, held_out = TrainingSet.open(of, of.spec.dataset), TrainingSet.open(of, of.spec.held_out, "held_out")
    queries = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(77))[:QUERIES].tolist()
    return Truth(seed, directory, of, data, held_out, queries, half_subsets(len(data), SUBSETS, 1000 + seed))
