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
    sizes: tuple[int, int],
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
        sizes: Number of training and of held-out examples.
        subsets: Number of halves.
        queries: Number of held-out examples whose losses are recorded.
        seeds: Trainings of each half; their losses are averaged.
        jobs: Processes.
        progress: Shows the trainings.
    """
    if subsets < 2:
        raise SpecError(f"the number of subsets is {subsets}, expected at least 2", field="subsets")
    train_size, held_out_size = sizes
    generator = torch.Generator().manual_seed(5)
    positions = torch.randperm(held_out_size, generator=generator)[:queries].sort().values.tolist()
    masks = half_subsets(train_size, subsets, seed=6)
    runs = [
        retrained_losses(
            Retraining(spec, seed, tuple(positions), directory / f"{recipe_digest(spec, positions)}-{seed}"),
            masks,
            progress,
            jobs,
        )
        for seed in range(seeds)
    ]
    return GroundTruth(positions, masks, torch.stack(runs).mean(dim=0))


def recipe_digest(spec: ModelSpec, positions: list[int]) -> str:
    """What retrained models depend on, and nothing else: neither the weights served nor the curvature."""
    parts = spec.model_dump(mode="json", exclude={"curvature", "weights", "expected_accuracy", "device", "name"})
    return hashlib.sha256(json.dumps([parts, positions], sort_keys=True).encode()).hexdigest()[:16]
