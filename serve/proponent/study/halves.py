"""The datamodeling score of an index, against models trained on random halves that all experiments share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.agreement import spearman
from proponent.audit.intervals import two_way_interval
from proponent.audit.retraining import half_subsets
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.study.retraining import losses_without
from proponent.study.workbench import Trained, Workbench

_FIRST_SEED = 500


@dataclass(frozen=True)
class Halves:
    """Random halves, [S, N] bool, and the losses of models trained on them on Q held-out examples, [S, Q]."""

    subsets: Tensor
    losses: Tensor


def trained_halves(bench: Workbench, trained: Trained, context: AuditContext, count: int, queries: int) -> Halves:
    """Trains on halves, each with a seed of its own; once for all experiments that ask for the same."""
    subsets = half_subsets(len(context.data), count, seed=6)

    def run() -> list[list[float]]:
        return [
            losses_without(context, (~subset).nonzero().flatten().tolist(), queries, _FIRST_SEED + number)
            for number, subset in enumerate(bench.track(f"halves {trained.name}", subsets, count))
        ]

    return Halves(subsets, torch.tensor(bench.shared(trained, f"halves-{count}", run), dtype=torch.float64))


def predicted_gains(context: AuditContext, halves: Halves) -> Tensor:
    """Summed scores of each half for each held-out example, [Q, S] float64."""
    queries = list(range(halves.losses.shape[1]))
    return influence_matrix(context, queries) @ halves.subsets.double().mT


def score(context: AuditContext, halves: Halves) -> dict[str, Any]:
    """Mean datamodeling score with its 95 % interval over queries and models; and what was predicted, [Q][S]."""
    predicted = predicted_gains(context, halves)
    low, high = two_way_interval(_mean, predicted, -halves.losses.mT, correlation=True)
    mean = float(_mean(predicted, -halves.losses.mT))
    return {"lds": mean, "low": low, "high": high, "predicted": predicted.tolist()}


def scores_of(predicted: Tensor, losses: Tensor) -> Tensor:
    """Mean datamodeling scores [D] of D models at once; predicted gains and losses [Q, S, D]."""
    return spearman(predicted.permute(2, 0, 1), -losses.permute(2, 0, 1)).mean(dim=1)


def _mean(left: Tensor, right: Tensor) -> Tensor:
    return spearman(left, right).mean()
