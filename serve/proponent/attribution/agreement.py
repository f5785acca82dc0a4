"""Figures of agreement between scores, and between scores and retrained models."""

from __future__ import annotations

import torch
from torch import Tensor

from proponent.attribution.division import ratio


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension, ties averaged, float64."""
    order = values.argsort(dim=-1, stable=True)
    position = torch.empty_like(order)
    steps = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    position.scatter_(-1, order, steps)
    below = torch.searchsorted(values.sort(dim=-1).values.contiguous(), values.contiguous(), right=False)
    above = torch.searchsorted(values.sort(dim=-1).values.contiguous(), values.contiguous(), right=True)
    tied = above - below > 1
    return torch.where(tied, (below + above - 1) / 2, position.double())


def pearson(left: Tensor, right: Tensor) -> Tensor:
    """Correlation along the last dimension, float64; 0 where one side is constant."""
    a = left.double() - left.double().mean(dim=-1, keepdim=True)
    b = right.double() - right.double().mean(dim=-1, keepdim=True)
    return ratio((a * b).sum(dim=-1), a.norm(dim=-1) * b.norm(dim=-1))


def spearman(left: Tensor, right: Tensor) -> Tensor:
    """Rank correlation along the last dimension, float64."""
    return pearson(ranks(left), ranks(right))


def top_overlap(left: Tensor, right: Tensor, k: int) -> Tensor:
    """Share of the k largest of ``right`` [..., N] that are among the k largest of ``left``, [...]."""
    chosen = torch.zeros_like(left, dtype=torch.bool).scatter_(-1, left.topk(k, dim=-1).indices, True)
    return chosen.gather(-1, right.topk(k, dim=-1).indices).double().mean(dim=-1)


def roc_auc(scores: Tensor, positive: Tensor) -> float:
    """Probability that a positive [N] bool scores above a negative, ties counting half."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    above = (ranks(scores)[positive] + 1).sum() - positives * (positives + 1) / 2
    return float(above) / (positives * negatives)


def linear_datamodeling(scores: Tensor, subsets: Tensor, losses: Tensor) -> Tensor:
    """Linear datamodeling score of each query, [Q] float64 (Park et al. 2023).

    Args:
        scores: [Q, N], positive for proponents.
        subsets: [S, N] bool, the training sets of the retrained models.
        losses: [S, Q], their losses on the queries.
    """
    predicted = scores.double() @ subsets.double().mT
    return spearman(predicted, -losses.double().mT)
