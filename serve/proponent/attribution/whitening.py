"""Whitened gradients in a Kronecker eigenbasis, over all eigenvectors: what a rebuild looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.capture import LayerGradients
from proponent.attribution.curvature.factors import LayerFactors, damping_per_layer


@dataclass(frozen=True)
class LayerWhitening:
    """``w = root o (Q_out^T G Q_in)`` of one layer; all float32.

    Attributes:
        q_out: [G, o, o].
        q_in: [G, i, i].
        root: (Lambda + lambda)^(-1/2), [G, o, i].
    """

    q_out: Tensor
    q_in: Tensor
    root: Tensor


Whitening = Mapping[str, LayerWhitening]


def make_whitening(
    factors: Mapping[str, LayerFactors], damping: float, *, relative: bool, device: torch.device
) -> dict[str, LayerWhitening]:
    """Whitening at one damping; the factors stay free of it."""
    added = damping_per_layer(factors, damping, relative=relative)
    return {
        name: LayerWhitening(
            layer.q_out.float().to(device),
            layer.q_in.float().to(device),
            _alive(layer.eigenvalues + added[name]).rsqrt().float().to(device),
        )
        for name, layer in factors.items()
    }


def _alive(damped: Tensor) -> Tensor:
    """A direction without curvature and damping never sees a gradient: it is shut off, not blown up."""
    return torch.where(damped > 0, damped, torch.full_like(damped, torch.inf))


def whiten(whitening: Whitening, gradients: LayerGradients) -> Iterator[tuple[str, Tensor]]:
    """W of one layer after the other, [B, G, o, i] float32: never of all layers at once."""
    for name, layer in whitening.items():
        yield name, gradients[name].project(layer.q_out, layer.q_in) * layer.root


def squared_norms(whitening: Whitening, gradients: LayerGradients) -> Tensor:
    """||w||^2 over all layers, [B] float64."""
    return torch.stack([squared(value) for _, value in whiten(whitening, gradients)]).sum(dim=0)


def squared(values: Tensor) -> Tensor:
    """Squared norms of the examples of a batch, [B, ...] float32 to [B] float64."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.double().square()


def energies(values: Tensor, layer: LayerWhitening) -> tuple[Tensor, Tensor]:
    """||w||^2 and w^T (Lambda + lambda)^(-1) w of one layer's w, [B] float64 each, in one pass over w."""
    squares = values.square().flatten(1)
    return squares.sum(dim=1).double(), (squares @ layer.root.square().flatten()).double()
