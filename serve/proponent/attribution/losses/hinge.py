"""Hinge losses of one and of several outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proponent.attribution.losses.loss import Loss
from proponent.attribution.losses.outputs import (
    is_single,
    one_hot,
    sign,
    uncalibrated,
    uncalibrated_prediction,
)


@dataclass(frozen=True)
class Hinge(Loss):
    """Hinge loss: binary for one output (labels 0/1 stand for -1/+1), else Crammer and Singer (2001).

    It is piecewise linear, so its Hessian is zero almost everywhere, and it defines no probabilities.
    """

    name: str = "hinge"

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``max(0, 1 - s f)``, or ``max(0, 1 + max_{c != y} f_c - f_y)``."""
        if is_single(outputs):
            return F.relu(1 - sign(labels, outputs) * outputs.reshape(-1))
        true_score = outputs.gather(1, labels.unsqueeze(1)).squeeze(1)
        return F.relu(1 + _without_label(outputs, labels).amax(1) - true_score)

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """A subgradient: zero at the kink, and the first of several tied rivals."""
        violated = self.per_example(outputs, labels) > 0
        if is_single(outputs):
            return (-sign(labels, outputs) * violated).view_as(outputs)
        rival = one_hot(_without_label(outputs, labels).argmax(1), outputs)
        signs = rival.to(outputs.dtype) - one_hot(labels, outputs).to(outputs.dtype)
        return signs * violated.unsqueeze(1)

    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Zeros."""
        width = 1 if is_single(outputs) else outputs.shape[1]
        return outputs.new_zeros(outputs.shape[0], width, width)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Softmax of the margins (sigmoid of a single one): a ranking of classes, not calibrated."""
        return uncalibrated(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Class with the largest score; for one output, 1 where it is positive."""
        return uncalibrated_prediction(outputs)


def _without_label(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.masked_fill(one_hot(labels, outputs), -torch.inf)
