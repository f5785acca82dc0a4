"""Gradients of a layer in its Kronecker eigenbasis, ``Q_out^T G Q_in``: what eigenvalues and rows are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from proponent.attribution.gradients.formed import AnyGradient, FormedGradient
from proponent.attribution.gradients.layer_gradients import (
    LayerGradient,
    projected,
    summed_squares,
    times,
    two_sided,
)


class Rotated(ABC):
    """Coordinates of one layer's gradients for B examples."""

    @abstractmethod
    def squares(self) -> Tensor:
        """Sum over the examples of the squared coordinates, [G, o, i] float64."""


@dataclass(frozen=True)
class DenseRotated(Rotated):
    """Of a layer that is applied at many positions: ``value`` is [B, G, o, i]."""

    value: Tensor

    @override
    def squares(self) -> Tensor:
        return summed_squares(self.value)


@dataclass(frozen=True)
class OuterRotated(Rotated):
    """Of a layer that is applied at one position: outer products, never formed.

    Attributes:
        left: Q_out^T d, [B, G, o].
        right: Q_in^T a, [B, G, i].
    """

    left: Tensor
    right: Tensor

    @override
    def squares(self) -> Tensor:
        return self.left.double().square().permute(1, 2, 0) @ self.right.double().square().transpose(0, 1)


Part = tuple[slice, Rotated]
"""A layer's coordinates for some examples of a block, see `LayerGradient.slices`."""
RotatedGradients = Mapping[str, Iterable[Part]]
"""Those for all of its examples, by layer."""


def rotated(gradients: Sequence[AnyGradient], q_out: Tensor, q_in: Tensor) -> list[Rotated]:
    """Coordinates of gradients with the same inputs, whose products with Q_in are formed once.

    Args:
        gradients: Of several backwards of one forward, say; all of them formed, or none.
        q_out: ``[G, o, o]``, eigenvectors as columns.
        q_in: ``[G, i, i]``.
    """
    formed = [gradient for gradient in gradients if isinstance(gradient, FormedGradient)]
    if formed:
        return [DenseRotated(two_sided(q_out, gradient.value, q_in)) for gradient in formed]
    return _rotated([gradient for gradient in gradients if isinstance(gradient, LayerGradient)], q_out, q_in)


def _rotated(gradients: Sequence[LayerGradient], q_out: Tensor, q_in: Tensor) -> list[Rotated]:
    if gradients[0].positions != 1:
        return [DenseRotated(value) for value in projected(gradients, q_out, q_in)]
    right = times(gradients[0].inputs, q_in)[:, :, 0]
    return [OuterRotated(times(gradient.deltas, q_out)[:, :, 0], right) for gradient in gradients]


def parts_of(gradient: AnyGradient, q_out: Tensor, q_in: Tensor) -> Iterator[Part]:
    """Coordinates of one gradient, each computed when it is asked for."""
    for some in gradient.slices():
        [part] = rotated([gradient.examples(some)], q_out, q_in)
        yield some, part


def rotated_bytes(gradient: AnyGradient) -> int:
    """What a gradient's coordinates take."""
    if isinstance(gradient, FormedGradient):
        return gradient.value.nbytes
    shape, count = gradient.shape, len(gradient.anchor)
    each = shape.groups * (shape.inputs + shape.out) if gradient.positions == 1 else shape.numel
    return count * each * gradient.anchor.element_size()
