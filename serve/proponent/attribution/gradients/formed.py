"""Gradients of a layer that were formed as matrices.

Where a layer is applied at many positions they take less memory than their factors, and are the first thing that a
rotation computes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.gradients.layer_gradients import LayerGradient, Order, slices_of


@dataclass(frozen=True)
class FormedGradient:
    """Gradients of one layer for B examples.

    Attributes:
        value: What `LayerGradient.dense` gives of each of its slices, ``[B, G, o, i]``.
    """

    value: Tensor

    @property
    def anchor(self) -> Tensor:
        """Tells batch size, dtype and device."""
        return self.value

    def examples(self, some: slice) -> FormedGradient:
        """The gradients of some of the examples."""
        return FormedGradient(self.value[some])

    def slices(self) -> list[slice]:
        """Those of the `LayerGradient`."""
        return slices_of(len(self.value), self.value[0].numel())

    def tensors(self) -> Iterator[Tensor]:
        """What takes memory."""
        yield self.value


AnyGradient = LayerGradient | FormedGradient
"""What rotates alike, bit by bit."""


def smallest(passes: Sequence[Mapping[str, AnyGradient]]) -> list[dict[str, AnyGradient]]:
    """Gradients of several backwards of one forward, formed where that takes less memory than their factors do."""
    found = {name: _smallest([gradients[name] for gradients in passes]) for name in passes[0]}
    return [{name: layer[number] for name, layer in found.items()} for number in range(len(passes))]


def _smallest(gradients: Sequence[AnyGradient]) -> Sequence[AnyGradient]:
    count = len(gradients)
    factors = [each for each in gradients if isinstance(each, LayerGradient)]
    if not factors or least_bytes(factors[0], count) == _factor_bytes(factors[0], count):
        return gradients
    return [FormedGradient(torch.cat([each.examples(some).dense() for some in each.slices()])) for each in factors]


def least_bytes(gradient: AnyGradient, count: int) -> int:
    """What the `smallest` of so many backwards take of a layer, at most: layers may share their inputs."""
    if isinstance(gradient, FormedGradient):
        return count * gradient.value.nbytes
    factors, formed = _factor_bytes(gradient, count), count * len(gradient.anchor) * gradient.shape.numel
    return min(factors, formed * gradient.anchor.element_size()) if _is_formed_first(gradient) else factors


def _factor_bytes(gradient: LayerGradient, count: int) -> int:
    return sum(use.inputs.nbytes + count * use.deltas.nbytes for use in gradient.uses)


def _is_formed_first(gradient: LayerGradient) -> bool:
    """Whether a rotation into all eigenvectors begins with the gradient itself, in the same slices."""
    order = gradient.cheapest(gradient.shape.out, gradient.shape.inputs)
    return gradient.positions > 1 and gradient.anchor.device.type == "cpu" and order is Order.DENSE
