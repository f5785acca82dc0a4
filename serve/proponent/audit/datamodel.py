"""The linear datamodeling score: do summed scores predict the losses of models retrained on random halves?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proponent.audit.retraining import Retraining, half_subsets, retrained_losses
from proponent.errors import SpecError
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import Train, training_digest
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec

SEEDS_APART = 100_000
"""Between the first training seeds of two trainings of the same half."""


@dataclass(frozen=True)
class Purpose:
    """What models are retrained for: each purpose has halves, training seeds and queries of its own.

    Attributes:
        name: Of its directories.
        subsets_seed: Of the halves.
        first_seed: Training seed of the first half; every other one has its own.
        from_end: Queries are taken from the end of one shuffled list instead of its start, so that two purposes share
            none where the held-out set holds both.
    """

    name: str
    subsets_seed: int
    first_seed: int
    from_end: bool

    def queries(self, size: int, count: int) -> list[int]:
        """Positions in a held-out set, ascending."""
        shuffled = torch.randperm(size, generator=torch.Generator().manual_seed(5))
        return (shuffled.flip(0) if self.from_end else shuffled)[:count].sort().values.tolist()


AUDIT = Purpose("audit", 6, 1_000_000, from_end=False)
TUNING = Purpose("tuning", 7, 2_000_000, from_end=True)


@dataclass(frozen=True)
class GroundTruth:
    """Retrained models of one spec.

    Attributes:
        positions: Held-out queries.
        subsets: [S, N] bool.
        runs: [R, S, Q] float64, the losses of each of R trainings.
    """

    positions: list[int]
    subsets: Tensor
    runs: Tensor

    @property
    def losses(self) -> Tensor:
        """[S, Q], averaged over the training seeds."""
        return self.runs.mean(dim=0)


def ground_truth(
    spec: ModelSpec,
    directory: Path,
    data: TrainingSet,
    held_out: TrainingSet,
    *,
    purpose: Purpose,
    subsets: int,
    queries: int,
    seeds: int,
    jobs: int,
    progress: StageProgress,
    train: Train | None = None,
) -> GroundTruth:
    """Retrains on ``subsets`` halves, each training with a seed of its own; resumes from ``directory``.

    Args:
        spec: What is retrained.
        directory: Where finished models' losses are kept.
        data: The training set.
        held_out: The held-out set.
        purpose: Which halves, seeds and queries.
        subsets: Number of halves.
        queries: Number of held-out examples whose losses are recorded.
        seeds: Trainings of each half; their losses are averaged.
        jobs: Processes.
        progress: Shows the trainings.
        train: Runs the trainings elsewhere.
    """
    if subsets < 2:
        raise SpecError(f"the number of subsets is {subsets}, expected at least 2", field="subsets")
    positions = purpose.queries(len(held_out), queries)
    masks = half_subsets(len(data), subsets, seed=purpose.subsets_seed)
    digest = recipe_digest(spec, data, held_out, positions)
    runs = []
    for training in range(seeds):
        first = purpose.first_seed + training * SEEDS_APART
        job = Retraining(
            spec,
            tuple(range(first, first + subsets)),
            tuple(positions),
            directory / f"{digest}-{purpose.name}-{training}",
        )
        runs.append(retrained_losses(job, masks, progress, jobs, train))
    return GroundTruth(positions, masks, torch.stack(runs))


def recipe_digest(spec: ModelSpec, data: TrainingSet, held_out: TrainingSet, positions: list[int]) -> str:
    """What retrained models' losses depend on: their trainings, and the queries."""
    parts = [training_digest(spec, data), held_out.fingerprint(), positions]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
