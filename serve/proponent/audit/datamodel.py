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
from proponent.rebuild.training_set import TrainingSet
from proponent.source_code import code_sha256
from proponent.spec import ModelSpec


@dataclass(frozen=True)
class GroundTruth:
    """Retrained models of one spec.

    Attributes:
        positions: Held-out queries.
        subsets: [S, N] bool.
        losses: [S, Q] float64, averaged over the training seeds.
    """

    positions: list[int]
    subsets: Tensor
    losses: Tensor


def ground_truth(
    spec: ModelSpec,
    directory: Path,
    data: TrainingSet,
    held_out: TrainingSet,
    *,
    subsets: int,
    queries: int,
    seeds: int,
    jobs: int,
    progress: StageProgress,
) -> GroundTruth:
    """Retrains on ``subsets`` halves with each of ``seeds`` seeds; resumes from ``directory``.

    Args:
        spec: What is retrained.
        directory: Where finished models' losses are kept.
        data: The training set.
        held_out: The held-out set.
        subsets: Number of halves.
        queries: Number of held-out examples whose losses are recorded.
        seeds: Trainings of each half; their losses are averaged.
        jobs: Processes.
        progress: Shows the trainings.
    """
    if subsets < 2:
        raise SpecError(f"the number of subsets is {subsets}, expected at least 2", field="subsets")
    generator = torch.Generator().manual_seed(5)
    positions = torch.randperm(len(held_out), generator=generator)[:queries].sort().values.tolist()
    masks = half_subsets(len(data), subsets, seed=6)
    digest = recipe_digest(spec, data, held_out, positions)
    runs = [
        retrained_losses(
            Retraining(spec, seed, tuple(positions), directory / f"{digest}-{seed}"),
            masks,
            progress,
            jobs,
        )
        for seed in range(seeds)
    ]
    return GroundTruth(positions, masks, torch.stack(runs).mean(dim=0))


def recipe_digest(spec: ModelSpec, data: TrainingSet, held_out: TrainingSet, positions: list[int]) -> str:
    """What retrained models' losses depend on, and nothing else: neither the weights served nor the curvature."""
    recipe = spec.model_dump(mode="json", exclude={"curvature", "weights", "expected_accuracy", "device", "name"})
    parts = [recipe, code_sha256(spec), data.fingerprint(), held_out.fingerprint(), positions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
