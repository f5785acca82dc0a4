"""Softmax regression in float64, written down here: nothing of the code under test takes part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CONVERGED = 1e-12
"""Norm of the objective's gradient at which a training stops."""


@dataclass(frozen=True)
class Regression:
    """Examples of a linear model without hidden layers.

    Attributes:
        features: [N, i], the last column being ones.
        labels: [N] of ten classes.
        weight_decay: Of the objective ``mean loss + wd / 2 ||theta||^2``.
    """

    features: Tensor
    labels: Tensor
    weight_decay: float

    def without(self, row: int) -> Regression:
        kept = torch.arange(len(self.labels)) != row
        return Regression(self.features[kept], self.labels[kept], self.weight_decay)

    def losses(self, theta: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self.features @ theta.T, self.labels, reduction="none")

    def gradient(self, theta: Tensor) -> Tensor:
        residual = (self.features @ theta.T).softmax(1) - torch.nn.functional.one_hot(self.labels, 10)
        return residual.T @ self.features / len(self.labels) + self.weight_decay * theta

    def hessian(self, theta: Tensor) -> Tensor:
        p = (self.features @ theta.T).softmax(1)
        outputs = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        blocks = torch.einsum("ncd,ni,nj->cidj", outputs, self.features, self.features) / len(p)
        size = theta.numel()
        return blocks.reshape(size, size) + self.weight_decay * torch.eye(size)

    def minimum(self, start: Tensor, factor: Tensor) -> Tensor:
        """Newton's method with one factorised Hessian of a model nearby; linear, but quick."""
        theta = start
        for _ in range(100):
            gradient = self.gradient(theta)
            if float(gradient.norm()) < CONVERGED:
                return theta
            theta = theta - torch.cholesky_solve(gradient.reshape(-1, 1), factor).reshape(theta.shape)
        raise AssertionError("the retraining did not converge")


def train(data: Regression) -> tuple[Tensor, Tensor]:
    """The minimum with all examples, and the Cholesky factor of its Hessian."""
    theta = torch.zeros(10, data.features.shape[1], dtype=torch.float64)
    for _ in range(30):
        factor = torch.linalg.cholesky(data.hessian(theta))
        if float(data.gradient(theta).norm()) < CONVERGED:
            return theta, factor
        theta = theta - torch.cholesky_solve(data.gradient(theta).reshape(-1, 1), factor).reshape(theta.shape)
    raise AssertionError("the training did not converge")


def chosen_rows(scores: Tensor, per_end: int, at_random: int) -> list[int]:
    """The strongest rows [N, tests] of both ends of every test point, and some at random."""
    order = scores.argsort(dim=0)
    extreme = torch.cat([order[:per_end], order[-per_end:]]).flatten()
    random = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))[:at_random]
    return torch.cat([extreme, random]).unique().tolist()
