"""Cross-entropy of softmax and logistic outputs, relatively accurate however sure the model is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proponent.attribution.losses.loss import Loss
from proponent.attribution.losses.outputs import binary_probabilities, is_single, one_hot, sign
from proponent.errors import SpecError

_NOT_NORMALISED = 0.05


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of C logits."""

    name: str = "cross_entropy"

    def check_outputs(self, outputs: Tensor) -> None:
        """Two outputs or more."""
        super().check_outputs(outputs)
        if is_single(outputs):
            raise SpecError(
                f"Loss {self.name} needs one output for each class, got outputs of shape {list(outputs.shape)}.",
                field="loss",
            )

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``logsumexp(z) - z_y``."""
        return F.cross_entropy(outputs, labels, reduction="none")

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``p - onehot(y)``, the entry of y being minus the sum of the other probabilities."""
        probabilities = outputs.softmax(1)
        is_label = one_hot(labels, outputs)
        others = probabilities.masked_fill(is_label, 0.0)
        return torch.where(is_label, -others.sum(1, keepdim=True), probabilities)

    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``diag(p) - p p^T``, positive semi-definite; the diagonal is ``p_c`` times the others' sum."""
        probabilities = outputs.softmax(1)
        off_diagonal = -probabilities.unsqueeze(2) * probabilities.unsqueeze(1)
        return _with_diagonal(off_diagonal, probabilities * _complement(probabilities))

    def hessian_root(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Columns ``sqrt(p_c) (onehot(c) - p)``: the Fisher information summed over all classes."""
        probabilities = outputs.softmax(1)
        columns = -probabilities.unsqueeze(2).expand(-1, -1, probabilities.shape[1])
        columns = _with_diagonal(columns, _complement(probabilities))
        return columns * probabilities.sqrt().unsqueeze(1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Softmax."""
        return outputs.softmax(1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Class with the largest logit."""
        return outputs.argmax(1)


@dataclass(frozen=True)
class NegativeLogLikelihood(CrossEntropy):
    """``-v_y`` for a model whose outputs v are log-probabilities (it ends in log-softmax).

    Log-softmax leaves log-probabilities as they are, so cross-entropy evaluated at v has the same values and
    the same gradient and Gauss-Newton matrix in the *parameters*. All of it here is therefore cross-entropy's at v:
    the plain gradient ``-onehot(y)`` would leave the cancellation ``p_y - 1`` to the backward pass through
    log-softmax, and log-probabilities that are moved along their gradients sum to one no longer.
    """

    name: str = "nll"

    def check_outputs(self, outputs: Tensor) -> None:
        """Log-probabilities: their exponentials sum to one."""
        super().check_outputs(outputs)
        error = float(outputs.double().logsumexp(1).abs().max())
        if error > _NOT_NORMALISED:
            raise SpecError(
                f"Loss nll needs log-probabilities as outputs (log-softmax), got outputs whose exponentials sum to "
                f"something else than 1 (log of the sum {error:.3g}).",
                field="loss",
            )


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Logistic loss of one logit, ``[B]`` or ``[B, 1]``, labels 0 and 1."""

    name: str = "bce"

    def check_outputs(self, outputs: Tensor) -> None:
        """One output."""
        super().check_outputs(outputs)
        _single(outputs)

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``log(1 + exp(-s z))`` with s = +1 for label 1 and -1 for label 0."""
        return F.softplus(-sign(labels, outputs) * _single(outputs))

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``-s sigmoid(-s z)``."""
        signs = sign(labels, outputs)
        return (-signs * torch.sigmoid(-signs * _single(outputs))).view_as(outputs)

    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``sigmoid(z) sigmoid(-z)``, ``[B, 1, 1]``."""
        logits = _single(outputs)
        return (torch.sigmoid(logits) * torch.sigmoid(-logits)).view(-1, 1, 1)

    def hessian_root(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Square root of the Hessian, ``[B, 1, 1]``."""
        return self.output_hessian(outputs, labels).sqrt()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """``[sigmoid(-z), sigmoid(z)]``."""
        return binary_probabilities(_single(outputs))

    def predict(self, outputs: Tensor) -> Tensor:
        """1 where the logit is positive."""
        return (_single(outputs) > 0).long()


def _single(outputs: Tensor) -> Tensor:
    if not is_single(outputs):
        shape = tuple(outputs.shape)
        raise SpecError(f"Loss bce needs one output per example: expected [B] or [B, 1], got {shape}.", field="loss")
    return outputs.reshape(-1)


def _complement(probabilities: Tensor) -> Tensor:
    """Sum of the other classes' probabilities, ``[B, C]``, without forming ``1 - p``."""
    rows = probabilities.unsqueeze(1).expand(-1, probabilities.shape[1], -1)
    diagonal = torch.eye(probabilities.shape[1], dtype=torch.bool, device=probabilities.device)
    return rows.masked_fill(diagonal, 0.0).sum(2)


def _with_diagonal(matrices: Tensor, diagonals: Tensor) -> Tensor:
    mask = torch.eye(matrices.shape[-1], dtype=torch.bool, device=matrices.device)
    return torch.where(mask, diagonals.unsqueeze(-1), matrices)
