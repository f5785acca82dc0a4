"""Gradients scaled so that neither underflow nor rounding takes their direction.

In a well-trained network the gradients of most examples are tiny, far below what float32 or a square of it
can hold. So the output gradient is computed in float64 with relative accuracy, divided by its largest entry
and only then sent backwards; everything downstream is linear in it, and the factor is put back on norms in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one
from proponent.attribution.losses import Loss

DIRECTION_FLOOR = 1.0e-30
"""Examples whose largest output gradient is not above this have no direction (float64 probabilities that
small are still accurate; gradients this small are of no consequence and their squares underflow float64)."""


@dataclass(frozen=True)
class ScaledGradient:
    """Output gradients [B, ...] with largest entry 1 (or all zero) and their factors [B] float64."""

    unit: Tensor
    scale: Tensor

    @property
    def has_direction(self) -> Tensor:
        """Which examples have a direction, [B] bool."""
        return self.scale > DIRECTION_FLOOR

    def replaced(self, where: Tensor, others: ScaledGradient) -> ScaledGradient:
        """The same with others in the place of some examples, [B] bool."""
        shape = (-1, *([1] * (self.unit.ndim - 1)))
        unit = torch.where(where.reshape(shape), others.unit, self.unit)
        return ScaledGradient(unit, torch.where(where, others.scale, self.scale))

    def without(self, where: Tensor) -> ScaledGradient:
        """The same with zeros in the place of some examples, [B] bool."""
        return self.replaced(where, ScaledGradient(torch.zeros_like(self.unit), torch.zeros_like(self.scale)))


def scaled_output_gradient(loss: Loss, outputs: Tensor, labels: Tensor) -> ScaledGradient:
    """Gradient of the loss at the model's outputs, [B, ...], for labels [B] int64."""
    return _scaled(loss.output_gradient(outputs.double(), labels), outputs.dtype)


def contrast_output_gradient(loss: Loss, outputs: Tensor, wanted: Tensor, other: Tensor) -> ScaledGradient:
    """Gradient of loss(x, wanted) - loss(x, other): its proponents argue for ``wanted``."""
    wide = outputs.double()
    return _scaled(loss.output_gradient(wide, wanted) - loss.output_gradient(wide, other), outputs.dtype)


def _scaled(gradient: Tensor, dtype: torch.dtype) -> ScaledGradient:
    scale = gradient.flatten(1).abs().amax(dim=1) if gradient.ndim > 1 else gradient.abs()
    shape = (-1, *([1] * (gradient.ndim - 1)))
    return ScaledGradient((gradient / positive_or_one(scale).reshape(shape)).to(dtype), scale)
