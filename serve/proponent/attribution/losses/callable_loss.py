"""A loss that a user brings, by autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.losses.loss import Loss
from proponent.attribution.losses.outputs import uncalibrated, uncalibrated_prediction
from proponent.errors import SpecError


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
            SpecError: If that is not one number per example, or it fails.
        """
        values = self._called(outputs, labels)
        if values.shape != labels.shape:
            expected, got = tuple(labels.shape), tuple(values.shape)
            message = f"The loss must return one value per example: expected shape {expected}, got {got}."
            raise SpecError(message, field="loss")
        return values

    def _called(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """In double precision where the user's code can do that: constants of its own may be single."""
        try:
            return self.function(outputs, labels)
        except Exception as error:  # the user's code may raise anything
            if outputs.dtype != torch.float64:
                raise SpecError(f"The loss raised {type(error).__name__}: {error}", field="loss") from error
        return self._called(outputs.float(), labels).double()

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
        return uncalibrated(outputs)

    def predict(self, outputs: Tensor) -> Tensor:
        """Class with the largest output; for one output, 1 where it is positive."""
        return uncalibrated_prediction(outputs)


def _derivative(value: Tensor, leaf: Tensor) -> Tensor:
    """Differentiable gradient of a scalar, zero where it does not depend on the leaf."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True, materialize_grads=True)
    return gradient
