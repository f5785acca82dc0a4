"""How far a model is from a minimum of its training objective.

Influence as a prediction of retraining holds near one. The objective's gradient is summed over the same pass that
makes the rows, in whatever orthogonal coordinates that has; what chunks keep of it is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from proponent.rebuild.context import PART_BYTES, RebuildContext
from proponent.rebuild.workspace import Workspace

STAGE = "stationarity"
STATIONARY = 0.05
"""Ratio of the objective's gradient norm to the mean example's above which a rebuild warns."""
GRADIENT, NORMS = "gradient", "gradient_norms"
"""What a chunk of rows holds: the folded sum of its gradients, and the norm of each, both in float64."""
LEAST = 1 << 16
"""Numbers that are kept of a sum at least: its norm is then off by less than 1 % or not at all."""


def folded(context: RebuildContext, parts: Iterable[Tensor]) -> Tensor:
    """A vector as the sum of its pieces with random signs, where the chunks of all examples could not hold it whole.

    That is linear, and keeps the norm but for a share of about ``(2 / n) ** 0.5`` of n numbers.
    """
    flat = torch.cat([part.flatten() for part in parts])
    size = max(PART_BYTES // (8 * len(context.shards())), LEAST)
    if len(flat) <= size:
        return flat
    signs = torch.randint(2, (len(flat),), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    pieces = torch.split(flat * signs.to(flat), size)
    whole = torch.stack(pieces[:-1]).sum(dim=0)
    whole[: len(pieces[-1])] += pieces[-1]
    return whole


def find_ratio(context: RebuildContext, shards: Sequence[str], parameters: Tensor) -> None:
    """Keeps ``||mean_i g_i + wd theta|| / mean_i ||g_i||`` over covered parameters as a stage.

    Args:
        context: Its workspace holds the stage.
        shards: Stages that hold ``GRADIENT`` and ``NORMS``.
        parameters: Theta as `folded` leaves it.
    """

    def compute() -> Mapping[str, Tensor]:
        count, load = len(context.data), context.workspace.load_some
        mean = context.total(shards, [GRADIENT])[GRADIENT] / count
        norms = sum(float(load(shard, [NORMS])[NORMS].sum()) for shard in shards) / count
        objective = mean + context.classifier.spec.weight_decay * parameters
        ratio = float(objective.norm()) / norms if norms > 0 else 0.0
        return {"ratio": torch.tensor(ratio, dtype=torch.float64)}

    context.workspace.cached(STAGE, compute)


def stored_ratio(workspace: Workspace) -> float:
    """What was found; zero where no training example has a gradient."""
    return float(workspace.load(STAGE)["ratio"])
