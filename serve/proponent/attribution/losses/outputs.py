"""Reading a model's outputs and labels, whatever the loss."""

from __future__ import annotations

import torch
from torch import Tensor

_SUM_TOLERANCE = 5e-3
"""Of a sum of probabilities in half precision (bfloat16: 2e-3)."""


def is_single(outputs: Tensor) -> bool:
    """Whether there is one output per example, ``[B]`` or ``[B, 1]``."""
    return outputs.ndim == 1 or outputs.shape[1] == 1


def sign(labels: Tensor, outputs: Tensor) -> Tensor:
    """+1 for label 1 and -1 for label 0, ``[B]`` in the outputs' dtype."""
    return (2 * labels - 1).to(outputs.dtype)


def one_hot(labels: Tensor, outputs: Tensor) -> Tensor:
    """Where the label's output stands, ``[B, C]`` bool."""
    return labels.unsqueeze(1) == torch.arange(outputs.shape[1], device=outputs.device)


def binary_probabilities(logits: Tensor) -> Tensor:
    """``[sigmoid(-z), sigmoid(z)]`` of logits ``[B]``: ``[B, 2]``."""
    return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)


def look_like_probabilities(outputs: Tensor) -> Tensor:
    """Which rows lie in [0, 1] and, where there are several outputs, sum to one; ``[B]`` bool."""
    flat = outputs.double().reshape(len(outputs), -1)
    inside = ((flat >= 0) & (flat <= 1)).all(dim=1)
    return inside if flat.shape[1] == 1 else inside & ((flat.sum(dim=1) - 1).abs() < _SUM_TOLERANCE)


def uncalibrated(outputs: Tensor) -> Tensor:
    """Softmax of the outputs (sigmoid of a single one), ``[B, num_classes]``."""
    return binary_probabilities(outputs.reshape(-1)) if is_single(outputs) else outputs.softmax(1)


def uncalibrated_prediction(outputs: Tensor) -> Tensor:
    """Class with the largest output; for one output, 1 where it is positive; ``[B]`` int64."""
    return (outputs.reshape(-1) > 0).long() if is_single(outputs) else outputs.argmax(1)
