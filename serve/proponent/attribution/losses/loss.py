"""What attribution asks of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from proponent.attribution.losses.outputs import is_single
from proponent.errors import SpecError


class Loss(ABC):
    """A per-example loss with everything that attribution asks of it.

    Below, ``outputs`` are the model's outputs for a batch of B examples (``[B, C]``; losses with one output
    also take ``[B]``) and ``labels`` are the class indices ``[B]``, int64.
    """

    name: str

    def check_outputs(self, outputs: Tensor) -> None:
        """Raises SpecError where the loss is for other outputs than a model's ``outputs``."""
        if outputs.ndim == 0:
            raise SpecError("The model must return outputs for each example, got a single number.", field="model")
        if outputs.ndim > 2:
            raise SpecError(
                f"The model must return one row of outputs for each example, [B, C], got {list(outputs.shape)}: "
                "flatten the other dimensions, or average over them.",
                field="model",
            )
        if not outputs.is_floating_point():
            raise SpecError(f"The model must return floating-point outputs, got {outputs.dtype}.", field="model")

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
        return 2 if is_single(outputs) else int(outputs.shape[1])

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
