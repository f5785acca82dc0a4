r"""The influence embedding: gradients become short vectors whose inner products are influences.

An embedding maps the per-example gradient g of covered layers (P numbers) to phi in R^K with
``phi(test) . phi(i) = g_test^T C^{-1} g_i`` for one symmetric positive operator C. Training examples also get
two norms of the same C: ``s_i = g_i^T C^{-1} g_i`` and ``t_i = ||C^{-1} g_i||``. The same ``embed`` runs
offline over the training set and online over test inputs.

Sign (stated here once): the score is ``+ phi(test) . phi(i)``. Positive means proponent: training on i lowered
the test loss, and removing it raises that loss by about score / N (Koh & Liang 2017).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.division import positive_or_one
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import Layers
from proponent.errors import CurvatureError


@dataclass(frozen=True)
class EmbeddedRows:
    """Training rows of one batch; all tensors have B rows.

    Attributes:
        phi: [B, K], in the precision that it was computed in.
        self_influence: s, [B] float64.
        ihvp_norms: t, [B] float64.
        kept_energy: Share of the whitened gradient's energy that phi keeps, [B] float64 in 0..1.
    """

    phi: Tensor
    self_influence: Tensor
    ihvp_norms: Tensor
    kept_energy: Tensor


class InfluenceEmbedding(ABC):
    """Maps gradients of the covered layers to R^K."""

    layers: Layers
    kind: str

    @property
    @abstractmethod
    def size(self) -> int:
        """K."""

    @abstractmethod
    def embed(self, gradients: LayerGradients) -> Tensor:
        """phi, [B, K] float32."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything ``embed`` needs, by name, for storage."""

    @abstractmethod
    def to(self, device: torch.device) -> InfluenceEmbedding:
        """The same embedding on another device."""


@dataclass(frozen=True)
class ExactEmbedding(InfluenceEmbedding):
    """Coordinates of ``H^{-1/2} g`` in H's eigenbasis: exact with K = P, truncated by energy below.

    Attributes:
        basis: [P, K] float32, kept eigenvectors times (eigenvalue + damping)^(-1/2).
    """

    layers: Layers
    basis: Tensor
    kind: str = "exact"

    @property
    @override
    def size(self) -> int:
        return int(self.basis.shape[1])

    @override
    def embed(self, gradients: LayerGradients) -> Tensor:
        return flat_gradients(gradients) @ self.basis

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"basis": self.basis}

    @override
    def to(self, device: torch.device) -> ExactEmbedding:
        return ExactEmbedding(self.layers, self.basis.to(device))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], layers: Layers) -> ExactEmbedding:
        """Inverse of ``tensors``."""
        return cls(layers, tensors["basis"])


@dataclass(frozen=True)
class ExactFactors:
    """All of the inverse Hessian, for rows and norms offline, in float64.

    A small damping multiplies what rounding leaves in directions that the gradients do not have: in single precision
    that rules ``||H^-1 g||`` from a damping of about 1e-8 of the largest eigenvalue on. So gradients are float64 too.

    Attributes:
        whitening: [P, P] float64, eigenvectors times (eigenvalue + damping)^(-1/2), strongest energy first.
        damped: Eigenvalue + damping of each column, [P] float64.
    """

    layers: Layers
    whitening: Tensor
    damped: Tensor

    def to(self, device: torch.device) -> ExactFactors:
        """The same on another device."""
        return ExactFactors(self.layers, self.whitening.to(device), self.damped.to(device))

    def truncated(self, size: int) -> ExactEmbedding:
        """The embedding by the first ``size`` columns."""
        return ExactEmbedding(self.layers, self.whitening[:, :size].float().contiguous())

    def rows(self, gradients: LayerGradients, size: int) -> EmbeddedRows:
        """Rows and norms of a batch; the norms use all P coordinates."""
        full = flat_gradients(gradients).double() @ self.whitening
        energy = full.square()
        total = energy.sum(dim=1)
        kept = energy[:, :size].sum(dim=1) / positive_or_one(total)
        return EmbeddedRows(
            phi=full[:, :size],
            self_influence=total,
            ihvp_norms=(energy / self.damped).sum(dim=1).sqrt(),
            kept_energy=kept,
        )


def exact_factors(eigenvalues: Tensor, eigenvectors: Tensor, damping: float, layers: Layers) -> ExactFactors:
    """Whitening of an eigen-decomposed Hessian; columns by descending inverse eigenvalue."""
    damped = eigenvalues + damping
    return ExactFactors(layers, eigenvectors / damped.sqrt(), damped)


def order_by_energy(factors: ExactFactors, energy: Tensor) -> ExactFactors:
    """Sorts the columns by their mean energy over training rows, [P] float64, largest first."""
    order = energy.argsort(descending=True, stable=True)
    return ExactFactors(factors.layers, factors.whitening[:, order].contiguous(), factors.damped[order])


def size_for_energy(energy: Tensor, share: float) -> int:
    """Smallest number of the strongest coordinates that keeps ``share`` of the energy; all for 1.

    Raises:
        CurvatureError: No training row has any gradient.
    """
    if share >= 1.0:
        return len(energy)
    sorted_energy = energy.sort(descending=True).values.cumsum(0)
    if not sorted_energy[-1] > 0:
        raise CurvatureError("every training gradient is zero: there is nothing to embed", reason="ZERO_GRADIENTS")
    return int(torch.searchsorted(sorted_energy, share * sorted_energy[-1]).item()) + 1
