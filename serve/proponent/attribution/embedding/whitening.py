"""Whitened gradients in a Kronecker eigenbasis, over all eigenvectors: what a rebuild looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.curvature.factors import LayerFactors, damping_per_layer, floored
from proponent.attribution.curvature.rotation import (
    DenseRotated,
    OuterRotated,
    Part,
    Rotated,
    RotatedGradients,
    parts_of,
    rotated,
)
from proponent.attribution.gradients.formed import AnyGradient
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerGradients, squared_norms, times

FLOOR = 1e-12
"""Of a layer's largest damped eigenvalue: what single precision cannot tell from nothing."""


@dataclass(frozen=True)
class LayerWhitening:
    """``w = root o (Q_out^T G Q_in)`` of one layer; all float32.

    Attributes:
        q_out: [G, o, o].
        q_in: [G, i, i].
        root: (Lambda + lambda)^(-1/2) in some unit that all layers share, [G, o, i].
    """

    q_out: Tensor
    q_in: Tensor
    root: Tensor

    def apply(self, gradient: LayerGradient) -> Whitened:
        """W of a layer's gradients."""
        [coordinates] = rotated([gradient], self.q_out, self.q_in)
        return self.whiten(coordinates)

    def whiten(self, coordinates: Rotated) -> Whitened:
        """W of gradients in the eigenbasis."""
        if isinstance(coordinates, OuterRotated):
            return OuterWhitened(coordinates.left, coordinates.right, self.root)
        assert isinstance(coordinates, DenseRotated)
        return DenseWhitened(coordinates.value * self.root, self.root)

    def parts(self, gradient: AnyGradient) -> Iterator[Part]:
        """A layer's gradients in the eigenbasis, some at a time."""
        return parts_of(gradient, self.q_out, self.q_in)


Whitening = Mapping[str, LayerWhitening]


class Whitened(ABC):
    """W of one layer for B examples."""

    @abstractmethod
    def dense(self) -> Tensor:
        """W, [B, G, o, i] float32."""

    @abstractmethod
    def energy(self) -> Tensor:
        """||w||^2, [B] float64."""

    @abstractmethod
    def damped_energy(self) -> Tensor:
        """w^T (Lambda + lambda)^(-1) w, [B] float64."""

    @abstractmethod
    def gradient_norms(self) -> Tensor:
        """||Q^T g||, [B] float64."""

    @abstractmethod
    def gradient_sum(self, weights: Tensor) -> Tensor:
        """Sum of Q^T g over the examples, each times a weight, [B] float64: [G, o, i] float64."""

    @abstractmethod
    def select(self, out: Tensor, inputs: Tensor) -> Tensor:
        """W in some eigenvectors only, by their ascending indices [so] and [si]: [B, G, so, si]."""

    @abstractmethod
    def mix_outputs(self, weights: Tensor) -> Tensor:
        """Mixtures of w's rows over all groups, weights [B, s, G * o]: [B, s, i]."""

    @abstractmethod
    def mix_inputs(self, weights: Tensor) -> Tensor:
        """Mixtures of w's columns, weights [B, s, i]: [B, s, G * o]."""


@dataclass(frozen=True)
class DenseWhitened(Whitened):
    """W of a layer that is applied at many positions.

    Attributes:
        value: [B, G, o, i].
        root: See `LayerWhitening`.
    """

    value: Tensor
    root: Tensor

    @override
    def dense(self) -> Tensor:
        return self.value

    @override
    def energy(self) -> Tensor:
        return squared_norms(self.value)

    @override
    def damped_energy(self) -> Tensor:
        return squared_norms(self.value * self.root)

    @override
    def gradient_norms(self) -> Tensor:
        return squared_norms(self.value * _undone(self.root)).sqrt()

    @override
    def gradient_sum(self, weights: Tensor) -> Tensor:
        total = weights.to(self.value) @ self.value.flatten(1)
        return (total.view_as(self.root) * _undone(self.root)).double()

    @override
    def select(self, out: Tensor, inputs: Tensor) -> Tensor:
        some = self.value if len(out) == self.value.shape[2] else self.value.index_select(2, out)
        return some if len(inputs) == self.value.shape[3] else some.index_select(3, inputs)

    @override
    def mix_outputs(self, weights: Tensor) -> Tensor:
        mixed: Tensor = weights @ self.value.flatten(1, 2)
        return mixed

    @override
    def mix_inputs(self, weights: Tensor) -> Tensor:
        mixed: Tensor = weights @ self.value.flatten(1, 2).mT
        return mixed


@dataclass(frozen=True)
class OuterWhitened(Whitened):
    """W of a layer that is applied at one position: an outer product times root, never formed for norms.

    Attributes:
        left: Q_out^T d, [B, G, o].
        right: Q_in^T a, [B, G, i].
        root: See `LayerWhitening`.
    """

    left: Tensor
    right: Tensor
    root: Tensor

    @override
    def dense(self) -> Tensor:
        return self.left[..., :, None] * self.root * self.right[..., None, :]

    @override
    def energy(self) -> Tensor:
        return self._weighted(self.root.double().square())

    @override
    def damped_energy(self) -> Tensor:
        return self._weighted(self.root.double().square().square())

    def _weighted(self, weights: Tensor) -> Tensor:
        left, right = (side.transpose(0, 1).double().square() for side in (self.left, self.right))
        return (left @ weights * right).sum(dim=(0, 2))

    @override
    def gradient_norms(self) -> Tensor:
        left, right = (side.double().square().sum(dim=2) for side in (self.left, self.right))
        return (left * right).sum(dim=1).sqrt()

    @override
    def gradient_sum(self, weights: Tensor) -> Tensor:
        weighted = self.left * weights.to(self.left)[:, None, None]
        return (weighted.permute(1, 2, 0) @ self.right.transpose(0, 1)).double()

    @override
    def select(self, out: Tensor, inputs: Tensor) -> Tensor:
        root = self.root[:, out][..., inputs]
        return self.left[..., out][..., :, None] * root * self.right[..., inputs][..., None, :]

    @override
    def mix_outputs(self, weights: Tensor) -> Tensor:
        weighted = weights.reshape(*weights.shape[:2], *self.left.shape[1:]) * self.left[:, None]
        return (times(weighted.transpose(1, 2), self.root) * self.right[:, :, None]).sum(dim=1)

    @override
    def mix_inputs(self, weights: Tensor) -> Tensor:
        weighted = weights[:, None] * self.right[:, :, None]
        return (times(weighted, self.root.mT) * self.left[:, :, None]).transpose(1, 2).flatten(2)


def make_whitening(
    factors: Mapping[str, LayerFactors],
    damping: float,
    *,
    relative: bool,
    device: torch.device,
    weight_decay: float | None = None,
) -> dict[str, LayerWhitening]:
    """Whitening at one damping, in units of the curvature of all layers; the factors stay free of both.

    A relative damping has a floor where the objective's weight decay is given, see `floored`.

    The second stage undoes the unit: phi and the norms are the same in any. Without it the curvature of a model
    that is sure of everything, far below 1e-20, would take the powers of ``root`` out of float32's range.
    """
    added = damping_per_layer(factors, damping, relative=relative)
    if relative and weight_decay is not None:
        added = floored(added, weight_decay)
    damped = {name: layer.eigenvalues + added[name] for name, layer in factors.items()}
    unit = max((float(values.mean()) for values in damped.values()), default=0.0) or 1.0
    return {
        name: LayerWhitening(
            layer.q_out.float().to(device),
            layer.q_in.float().to(device),
            _alive(damped[name] / unit).rsqrt().float().to(device),
        )
        for name, layer in factors.items()
    }


def _undone(root: Tensor) -> Tensor:
    """What takes a root back; directions that were shut off stay so."""
    return torch.where(root > 0, root.reciprocal(), 0.0)


def _alive(damped: Tensor) -> Tensor:
    """A direction without curvature and damping is shut off, not blown up: its gradients are rounding."""
    return torch.where(damped > FLOOR * damped.amax(), damped, torch.inf)


def whiten(whitening: Whitening, gradients: LayerGradients) -> Iterator[tuple[str, Whitened]]:
    """W of one layer after the other: never of all layers at once."""
    for name, layer in whitening.items():
        yield name, layer.apply(gradients[name])


def rotate(whitening: Whitening, gradients: Mapping[str, AnyGradient]) -> RotatedGradients:
    """Gradients in the eigenbases, computed layer by layer as they are asked for."""
    return {name: layer.parts(gradients[name]) for name, layer in whitening.items()}
