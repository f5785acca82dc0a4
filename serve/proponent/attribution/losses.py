"""Losses as functions of the model's outputs: values, gradients, Hessians and label sampling.

Influence functions need the gradient of every example's loss, also of examples that the model fits so well
that their gradient is tiny. So each gradient here is *relatively* accurate: no entry is a difference of two
nearly equal numbers such as ``p_y - 1``. Nothing depends on the values of the tensors (no ``.item()``, no
branches on data), so everything runs on any device, ``meta`` included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proponent.attribution.uniforms import example_uniforms
from proponent.errors import SpecError

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CallableLoss",
    "CrossEntropy",
    "Hinge",
    "Loss",
    "NegativeLogLikelihood",
    "example_uniforms",
    "get_loss",
]


class Loss(ABC):
    """A per-example loss with everything that attribution asks of it.

    Below, ``outputs`` are the model's outputs for a batch of B examples (``[B, C]``; losses with one output
    also take ``[B]``) and ``labels`` are the class indices ``[B]``, int64.
    """

    name: str

    @abstractmethod
    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each example, ``[B]``."""

    @abstractmethod
    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Gradient of loss i with respect to outputs i, shaped like ``outputs``."""

    @abstractmethod
    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Hessian of loss i with respect to outputs i, ``[B, C, C]``."""

    def hessian_root(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """A root L of the output Hessian, ``[B, C, R]``, ``L L^T = output_hessian``.

        Negative eigenvalues, which only a loss that is not convex in the outputs has, count as zero.
        """
        eigenvalues, vectors = torch.linalg.eigh(self.output_hessian(outputs, labels).double())
        root: Tensor = vectors * eigenvalues.clamp(min=0).sqrt().unsqueeze(-2)
        return root.to(outputs.dtype)

    @abstractmethod
    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probability of each class, ``[B, num_classes]``."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Predicted class, ``[B]`` int64."""

    def num_classes(self, outputs: Tensor) -> int:
        """Number of classes: two for a single output, else the number of outputs."""
        return 2 if _is_single(outputs) else int(outputs.shape[1])

    def sample_labels(self, outputs: Tensor, uniforms: Tensor) -> Tensor:
        """Labels drawn from ``probabilities`` by inverting their distribution function.

        Args:
            outputs: ``[B, C]`` (or ``[B]``).
            uniforms: ``[B]`` numbers in [0, 1), one per example, see `example_uniforms`.

        Returns:
            ``[B]`` int64.
        """
        cumulative = self.probabilities(outputs).double().cumsum(1)
        thresholds = uniforms.to(cumulative).unsqueeze(1) * cumulative[:, -1:]
        return (cumulative[:, :-1] <= thresholds).sum(1)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of C logits."""

    name: str = "cross_entropy"

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``logsumexp(z) - z_y``."""
        return F.cross_entropy(outputs, labels, reduction="none")

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``p - onehot(y)``, the entry of y being minus the sum of the other probabilities."""
        probabilities = outputs.softmax(1)
        is_label = _one_hot(labels, outputs)
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
    the same gradient and Gauss-Newton matrix in the *parameters*. Gradient and Hessian here are therefore
    cross-entropy's at v: the plain gradient ``-onehot(y)`` would leave the cancellation ``p_y - 1`` to the
    backward pass through log-softmax.
    """

    name: str = "nll"

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``-v_y``."""
        return F.nll_loss(outputs, labels, reduction="none")


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Logistic loss of one logit, ``[B]`` or ``[B, 1]``, labels 0 and 1."""

    name: str = "bce"

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``log(1 + exp(-s z))`` with s = +1 for label 1 and -1 for label 0."""
        return F.softplus(-_sign(labels, outputs) * _single(outputs))

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``-s sigmoid(-s z)``."""
        sign = _sign(labels, outputs)
        return (-sign * torch.sigmoid(-sign * _single(outputs))).view_as(outputs)

    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``sigmoid(z) sigmoid(-z)``, ``[B, 1, 1]``."""
        logits = _single(outputs)
        return (torch.sigmoid(logits) * torch.sigmoid(-logits)).view(-1, 1, 1)

    def hessian_root(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Square root of the Hessian, ``[B, 1, 1]``."""
        return self.output_hessian(outputs, labels).sqrt()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """``[sigmoid(-z), sigmoid(z)]``."""
        logits = _single(outputs)
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """1 where the logit is positive."""
        return (_single(outputs) > 0).long()


@dataclass(frozen=True)
class Hinge(Loss):
    """Hinge loss: binary for one output (labels 0/1 stand for -1/+1), else Crammer and Singer (2001).

    It is piecewise linear, so its Hessian is zero almost everywhere, and it defines no probabilities.
    """

    name: str = "hinge"

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``max(0, 1 - s f)``, or ``max(0, 1 + max_{c != y} f_c - f_y)``."""
        if _is_single(outputs):
            return F.relu(1 - _sign(labels, outputs) * _single(outputs))
        true_score = outputs.gather(1, labels.unsqueeze(1)).squeeze(1)
        return F.relu(1 + _without_label(outputs, labels).amax(1) - true_score)

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """A subgradient: zero at the kink, and the first of several tied rivals."""
        violated = self.per_example(outputs, labels) > 0
        if _is_single(outputs):
            return (-_sign(labels, outputs) * violated).view_as(outputs)
        rival = _one_hot(_without_label(outputs, labels).argmax(1), outputs)
        signs = rival.to(outputs.dtype) - _one_hot(labels, outputs).to(outputs.dtype)
        return signs * violated.unsqueeze(1)

    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Zeros."""
        width = 1 if _is_single(outputs) else outputs.shape[1]
        return outputs.new_zeros(outputs.shape[0], width, width)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Softmax of the margins (sigmoid of a single one): a ranking of classes, not calibrated."""
        return _uncalibrated(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Class with the largest score; for one output, 1 where it is positive."""
        return _uncalibrated_prediction(outputs)


@dataclass(frozen=True)
class CallableLoss(Loss):
    """A user's own loss ``(outputs [B, ...], labels [B]) -> [B]``, differentiated by autograd.

    Its relative accuracy is that of the callable. Probabilities read the outputs as logits.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    name: str = "callable"

    def per_example(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What the callable returns.

        Raises:
            SpecError: If that is not one number per example.
        """
        values = self.function(outputs, labels)
        if values.shape != labels.shape:
            expected, got = tuple(labels.shape), tuple(values.shape)
            message = f"The loss must return one value per example: expected shape {expected}, got {got}."
            raise SpecError(message, field="loss")
        return values

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """By autograd of the summed loss."""
        with torch.inference_mode(False), torch.enable_grad():
            return self._gradient(outputs.detach().clone().requires_grad_(), labels.clone()).detach()

    def output_hessian(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """By differentiating the gradient once more, ``[B, C, C]``; may be indefinite."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = outputs.detach().clone().requires_grad_()
            gradient = self._gradient(leaf, labels.clone()).reshape(len(leaf), -1)
            rows = [_derivative(gradient[:, c].sum(), leaf) for c in range(gradient.shape[1])]
        return torch.stack([row.detach().reshape(len(leaf), -1) for row in rows], dim=1)

    def _gradient(self, leaf: Tensor, labels: Tensor) -> Tensor:
        return _derivative(self.per_example(leaf, labels).sum(), leaf)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Softmax of the outputs (sigmoid of a single one)."""
        return _uncalibrated(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Class with the largest output; for one output, 1 where it is positive."""
        return _uncalibrated_prediction(outputs)


LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (CrossEntropy(), NegativeLogLikelihood(), BinaryCrossEntropy(), Hinge())
}


def get_loss(spec: str | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss of that name, or the user's callable wrapped.

    Raises:
        SpecError: If no loss has that name; the message lists the known ones.
    """
    if callable(spec):
        return CallableLoss(spec)
    if spec not in LOSSES:
        raise SpecError(f"Unknown loss {spec!r}: expected one of {', '.join(LOSSES)}.", field="loss")
    return LOSSES[spec]


def _is_single(outputs: Tensor) -> bool:
    return outputs.ndim == 1 or outputs.shape[1] == 1


def _single(outputs: Tensor) -> Tensor:
    if not _is_single(outputs):
        shape = tuple(outputs.shape)
        raise SpecError(f"Loss bce needs one output per example: expected [B] or [B, 1], got {shape}.", field="loss")
    return outputs.reshape(-1)


def _sign(labels: Tensor, outputs: Tensor) -> Tensor:
    return (2 * labels - 1).to(outputs.dtype)


def _one_hot(labels: Tensor, outputs: Tensor) -> Tensor:
    return labels.unsqueeze(1) == torch.arange(outputs.shape[1], device=outputs.device)


def _without_label(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.masked_fill(_one_hot(labels, outputs), -torch.inf)


def _complement(probabilities: Tensor) -> Tensor:
    """Sum of the other classes' probabilities, ``[B, C]``, without forming ``1 - p``."""
    rows = probabilities.unsqueeze(1).expand(-1, probabilities.shape[1], -1)
    diagonal = torch.eye(probabilities.shape[1], dtype=torch.bool, device=probabilities.device)
    return rows.masked_fill(diagonal, 0.0).sum(2)


def _with_diagonal(matrices: Tensor, diagonals: Tensor) -> Tensor:
    mask = torch.eye(matrices.shape[-1], dtype=torch.bool, device=matrices.device)
    return torch.where(mask, diagonals.unsqueeze(-1), matrices)


def _derivative(value: Tensor, leaf: Tensor) -> Tensor:
    """Differentiable gradient of a scalar, zero where it does not depend on the leaf."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True, materialize_grads=True)
    return gradient


def _uncalibrated(outputs: Tensor) -> Tensor:
    return BinaryCrossEntropy().probabilities(outputs) if _is_single(outputs) else outputs.softmax(1)


def _uncalibrated_prediction(outputs: Tensor) -> Tensor:
    return (outputs.reshape(-1) > 0).long() if _is_single(outputs) else outputs.argmax(1)
