r"""The influence embedding of deep networks: an EK-FAC subspace and a joint second stage.

A layer's gradient G is rotated into the Kronecker eigenbasis and whitened,
``w = (Lambda + lambda)^{-1/2} o (Q_out^T G Q_in)``; a two-sided (Tucker) projection ``z = R^T w C`` keeps its
leading part, and ``phi = T V^T z`` joins all layers, with V orthonormal and ``T = (M + c I)^{-1/2}`` from the
second moment M of the training rows ``y = V^T z``, each weighted by one over the size of its output gradient. So
``phi(x) . phi(y)`` is one symmetric positive kernel with the implied operator

    C^{-1} = Q (Lambda + lambda)^{-1/2} [V (M + c I)^{-1} V^T + a (I - V V^T)] (Lambda + lambda)^{-1/2} Q^T,

whose a-term scores leave out and norms keep (George et al. 2018 for EK-FAC; Choe et al. 2024 for the kinship
with low-rank gradient projections; the joint second stage is this project's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.embedding.base import InfluenceEmbedding
from proponent.attribution.embedding.whitening import Whitened
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerGradients
from proponent.attribution.gradients.layers import Layers, LayerShape

NARROW = 16
"""Where a projection keeps fewer than one of so many numbers, zeros in R and C cost less than to gather kept ones."""
MANY = 2
"""Nor is it worth to gather where one of so many is kept."""

FLAT = 5e-3
"""Relative deviation of (Lambda + lambda)^(-1/2) from one number along an input eigenvector that a query neglects."""

PRODUCTS, WIDEST = 32, 1024
"""Most outer products that (Lambda + lambda)^(-1/2) is made of for queries, and of how many eigenvectors at most."""


@dataclass(frozen=True)
class LayerSubspace:
    """The projection of one layer; only the eigenvectors that it needs are kept.

    Attributes:
        left: [G, o, so] eigenvectors of the output side.
        right: [G, i, si] eigenvectors of the input side.
        whitening: [G, so, si], (Lambda + lambda)^(-1/2).
        rows: R, [G * so, r], orthonormal columns.
        columns: C, [si, c], orthonormal columns.
        kept_out: [so] int64, which of all output eigenvectors are kept.
        kept_in: [si] int64, which of all input eigenvectors are kept.
    """

    left: Tensor
    right: Tensor
    whitening: Tensor
    rows: Tensor
    columns: Tensor
    kept_out: Tensor
    kept_in: Tensor

    @property
    def size(self) -> int:
        """Numbers that the layer contributes, r * c."""
        return int(self.rows.shape[1] * self.columns.shape[1])

    def project(self, gradient: LayerGradient) -> Tensor:
        """Z of a layer's gradients, [B, r * c]."""
        return self.compress(gradient.project(self.left, self.right) * self.whitening)

    def compress(self, whitened: Tensor) -> Tensor:
        """``R^T w C`` of [B, G, so, si], flattened to [B, r * c]."""
        return _two_sided(self.rows, whitened, self.columns)

    def compress_all(self, whitened: Whitened, root: Tensor) -> tuple[Tensor, Tensor]:
        """``R^T w C`` and ``R^T (Lambda + lambda)^-1 w C`` of w over all eigenvectors, [B, r * c] each.

        Args:
            whitened: w.
            root: (Lambda + lambda)^(-1/2) of all eigenvectors, [G, o, i].
        """
        is_narrow = self.size * NARROW < self.whitening.numel()
        if is_narrow or MANY * self.whitening.numel() > root.numel():
            groups, out, inputs = root.shape
            rows = self.rows.new_zeros(groups, out, self.rows.shape[1])
            rows[:, self.kept_out] = self.rows.reshape(groups, -1, self.rows.shape[1])
            columns = self.columns.new_zeros(inputs, self.columns.shape[1]).index_copy(0, self.kept_in, self.columns)
            value = whitened.dense()
            weighted = value * root.square()
            tall = rows.flatten(0, 1)
            return _two_sided(tall, value, columns), _two_sided(tall, weighted, columns)
        kept = whitened.select(self.kept_out, self.kept_in)
        return self.compress(kept), self.compress(kept * self.whitening.square())

    def lift(self, coordinates: Tensor) -> Tensor:
        """Transpose of ``compress``: [K, r * c] to [K, G, so, si]."""
        matrix = coordinates.reshape(len(coordinates), self.rows.shape[1], self.columns.shape[1])
        wide = self.rows @ matrix @ self.columns.mT
        return wide.reshape(len(coordinates), *self.whitening.shape)

    def to(self, device: torch.device) -> LayerSubspace:
        """The same on another device."""
        return LayerSubspace(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class QueryProjection:
    """A layer's projection with fewer eigenvectors, for queries: it is off by ``FLAT`` of ``||w||`` at most.

    Where the damping outweighs every eigenvalue of an input eigenvector j, (Lambda + lambda)^(-1/2) is the same
    number v_j for all outputs. So ``w C = L^T G (R v C) + (E o L^T G R_s) C_s``, where s are the other eigenvectors
    and E is what they have beyond theirs: C + s columns in place of all that C needs, a few hundred in a wide layer.

    Attributes:
        left: [G, o, so] eigenvectors of the output side.
        kernels: [G, i, c + s], R v C and R_s.
        excess: E, [G, so, s].
        rows: R, [G * so, r].
        columns: C_s, [s, c].
    """

    left: Tensor
    kernels: Tensor
    excess: Tensor
    rows: Tensor
    columns: Tensor

    def project(self, gradient: LayerGradient) -> Tensor:
        """Z of a layer's gradients, [B, r * c]."""
        found = gradient.project(self.left, self.kernels)
        width = self.columns.shape[1]
        inside = found[..., :width].flatten(1, 2) + (found[..., width:] * self.excess).flatten(1, 2) @ self.columns
        projected: Tensor = self.rows.mT @ inside
        return projected.flatten(1)

    @classmethod
    def of(cls, subspace: LayerSubspace) -> QueryProjection:
        """Of a layer's subspace."""
        root = subspace.whitening.double()
        most, least = root.amax(dim=(0, 1)), root.amin(dim=(0, 1))
        level, columns = (most + least) / 2, subspace.columns.double()
        others = (most - level > FLAT * level).nonzero().flatten()
        right = subspace.right.double()
        kernels = torch.cat([right * level @ columns, right[..., others]], dim=2)
        excess = root[..., others] - level[others]
        return cls(
            subspace.left, kernels.float(), excess.float(), subspace.rows, columns[others].float().contiguous()
        )


@dataclass(frozen=True)
class OuterProjection:
    """A layer's projection for queries whose gradients are outer products, off by ``FLAT`` of ``||w||`` at most.

    (Lambda + lambda)^(-1/2) is about a sum of few products ``p_k q_k^T``. So z is the sum of as many outer products,
    of ``R^T p_k L^T d`` and ``C^T q_k R_in^T a``: short vectors in place of a matrix for each example.

    Attributes:
        left: L p_k R side by side, [o, n * r].
        right: [i, si] eigenvectors of the input side.
        columns: q_k C side by side, [si, n * c].
        size: r and c.
        otherwise: For gradients of several positions.
    """

    left: Tensor
    right: Tensor
    columns: Tensor
    size: tuple[int, int]
    otherwise: LayerSubspace | QueryProjection

    def project(self, gradient: LayerGradient) -> Tensor:
        """Z of a layer's gradients, [B, r * c]."""
        if gradient.positions != 1:
            return self.otherwise.project(gradient)
        outputs, inputs = gradient.deltas[:, 0, 0] @ self.left, gradient.inputs[:, 0, 0] @ self.right @ self.columns
        r, c = self.size
        projected: Tensor = outputs.reshape(len(outputs), -1, r).mT @ inputs.reshape(len(inputs), -1, c)
        return projected.flatten(1)

    @classmethod
    def of(cls, subspace: LayerSubspace, otherwise: LayerSubspace | QueryProjection) -> OuterProjection | None:
        """Of a layer's subspace; None where it would not be cheaper."""
        root = subspace.whitening[0].double()
        r, c = subspace.rows.shape[1], subspace.columns.shape[1]
        if len(root) > WIDEST:
            return None
        leading = torch.linalg.eigh(root @ root.mT)[1].flip(1)
        rest = root.clone()
        for count in range(1, min(len(root) // 2, PRODUCTS) + 1):
            last = leading[:, count - 1 : count]
            rest -= last @ (last.mT @ root)
            if bool((rest.abs() <= FLAT * root).all()):
                outputs = leading[:, :count]
                inputs = outputs.mT @ root
                left = torch.einsum("os,sk,sr->okr", subspace.left[0].double(), outputs, subspace.rows.double())
                columns = torch.einsum("ks,sc->skc", inputs, subspace.columns.double())
                return cls(left.flatten(1).float(), subspace.right[0], columns.flatten(1).float(), (r, c), otherwise)
        return None


def _for_queries(subspace: LayerSubspace, layer: LayerShape) -> LayerSubspace | QueryProjection | OuterProjection:
    """The cheapest of them; a tensor without values (device ``meta``) does not tell."""
    if subspace.whitening.is_meta:
        return subspace
    reduced = QueryProjection.of(subspace)
    cheaper = reduced if reduced.kernels.shape[2] < subspace.right.shape[2] else subspace
    is_linear = len(layer.weight_shape) == 2
    return (OuterProjection.of(subspace, cheaper) if is_linear else None) or cheaper


def _two_sided(rows: Tensor, matrices: Tensor, columns: Tensor) -> Tensor:
    """``R^T w C`` in the cheaper order, [B, r * c]."""
    flat = matrices.flatten(1, 2)
    (out, r), (inputs, c) = rows.shape, columns.shape
    if r * inputs * (out + c) <= c * out * (inputs + r):
        return (rows.mT @ flat @ columns).flatten(1)
    return (rows.mT @ (flat @ columns)).flatten(1)


@dataclass(frozen=True)
class SubspaceEmbedding(InfluenceEmbedding):
    """Gradients to R^K through the layers' subspaces.

    Attributes:
        subspaces: By layer name, in the order of the layers.
        joint: V T, [D, K] float32, D the sum of the subspaces' sizes.
        kind: "ekfac" or "kfac".
    """

    layers: Layers
    subspaces: Mapping[str, LayerSubspace]
    joint: Tensor
    kind: str = "ekfac"

    @property
    @override
    def size(self) -> int:
        return int(self.joint.shape[1])

    @override
    def embed(self, gradients: LayerGradients) -> Tensor:
        return self.project(gradients) @ self.joint

    def project(self, gradients: LayerGradients) -> Tensor:
        """Z of all layers side by side, [B, D]."""
        return torch.cat([layer.project(gradients[name]) for name, layer in self._projections.items()], dim=1)

    @cached_property
    def _projections(self) -> Mapping[str, LayerSubspace | QueryProjection | OuterProjection]:
        return {name: _for_queries(subspace, self.layers[name]) for name, subspace in self.subspaces.items()}

    @override
    def tensors(self) -> dict[str, Tensor]:
        parts = {
            f"{part.name}/{name}": getattr(subspace, part.name)
            for name, subspace in self.subspaces.items()
            for part in fields(LayerSubspace)
        }
        return parts | {"joint": self.joint}

    @override
    def to(self, device: torch.device) -> SubspaceEmbedding:
        moved = {name: subspace.to(device) for name, subspace in self.subspaces.items()}
        return SubspaceEmbedding(self.layers, moved, self.joint.to(device), self.kind)

    @classmethod
    def from_tensors(cls, kind: str, tensors: Mapping[str, Tensor], layers: Layers) -> SubspaceEmbedding:
        """Inverse of ``tensors``; KeyError where one is missing."""
        subspaces = {
            name: LayerSubspace(**{part.name: tensors[f"{part.name}/{name}"] for part in fields(LayerSubspace)})
            for name in layers
        }
        # Each direction's numbers side by side, as they are summed: one query reads them in two thirds of the time.
        return cls(layers, subspaces, tensors["joint"].mT.contiguous().mT, kind)
