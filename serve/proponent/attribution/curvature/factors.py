"""A layer's curvature in an eigenbasis of Kronecker form, free of damping.

``C = (Q_out (x) Q_in) diag(eigenvalues) (Q_out (x) Q_in)^T`` on the row-major matrix form ``[G, o, i]`` of a
layer's gradient, one block per group. Eigenvectors are **columns**, so ``Q_out^T G Q_in`` are the coordinates
of a gradient G. Damping is added where an inverse is applied, never to the stored eigenvalues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.errors import CurvatureError

LEAST_SHARE = 1e-2
"""Of the largest layer's damping: the floor where an objective has no weight decay."""


@dataclass(frozen=True)
class LayerFactors:
    """K-FAC or EK-FAC factors of one layer; the two differ in their eigenvalues only.

    Attributes:
        q_out: ``[G, o, o]``, orthonormal columns.
        q_in: ``[G, i, i]``, orthonormal columns.
        eigenvalues: ``[G, o, i]``, not negative, without damping.
    """

    q_out: Tensor
    q_in: Tensor
    eigenvalues: Tensor

    def to(self, like: Tensor) -> LayerFactors:
        """The factors in the dtype and on the device of another tensor."""
        return LayerFactors(self.q_out.to(like), self.q_in.to(like), self.eigenvalues.to(like))

    def rotate(self, gradient: Tensor) -> Tensor:
        """Coordinates ``Q_out^T G Q_in`` of ``[..., G, o, i]``."""
        return self.q_out.mT @ gradient @ self.q_in

    def rotate_back(self, coordinates: Tensor) -> Tensor:
        """Inverse of `rotate`."""
        return self.q_out @ coordinates @ self.q_in.mT


def damping_per_layer(
    factors: Mapping[str, LayerFactors], damping: float, *, relative: bool = True
) -> dict[str, float]:
    """Each layer's own damping.

    Args:
        factors: Factors by layer.
        damping: The number to add, or if relative the multiple of the mean eigenvalue of *that* layer.
        relative: Which of the two.
    """
    if not relative:
        return dict.fromkeys(factors, damping)
    return {name: damping * float(layer.eigenvalues.mean()) for name, layer in factors.items()}


def floored(damping: Mapping[str, float], weight_decay: float) -> dict[str, float]:
    """Each layer's damping, raised to what the objective itself has in every direction.

    A damping relative to the layer follows its curvature down to nothing, and the inverse of a layer that does next
    to nothing then rules ``||C^-1 g||``. The objective's curvature ends at its weight decay; without one, damping
    ends at ``LEAST_SHARE`` of the largest layer's.
    """
    floor = weight_decay if weight_decay > 0 else LEAST_SHARE * max(damping.values(), default=0.0)
    return {name: max(value, floor) for name, value in damping.items()}


def ihvp(
    factors: Mapping[str, LayerFactors], damping: Mapping[str, float], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``(C + damping I)^-1 g`` layer by layer: one inverse, applied once.

    Args:
        factors: Factors by layer; not modified.
        damping: Absolute damping by layer, see `damping_per_layer`.
        gradients: Dense gradients ``[..., G, o, i]`` by layer.

    Returns:
        Tensors shaped and typed like the gradients.

    Raises:
        CurvatureError: If a damped eigenvalue is not positive.
    """
    return {name: _solve(name, factors[name], damping[name], gradient) for name, gradient in gradients.items()}


def _solve(name: str, layer: LayerFactors, damping: float, gradient: Tensor) -> Tensor:
    smallest = float(layer.eigenvalues.min())
    if not smallest + damping > 0:
        message = (
            f"Layer {name!r}: smallest eigenvalue {smallest:.3g} plus damping {damping:.3g} is not positive: "
            "set a larger damping."
        )
        raise CurvatureError(message, field="damping")
    # In the precision of the factors: eigenvalues span more orders of magnitude than float16 or float32 hold.
    coordinates = layer.rotate(gradient.to(torch.promote_types(gradient.dtype, layer.q_out.dtype)))
    return layer.rotate_back(coordinates / (layer.eigenvalues + damping)).to(gradient.dtype)
