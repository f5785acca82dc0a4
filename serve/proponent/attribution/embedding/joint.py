"""The joint second stage: directions over all layers, re-whitened by the training rows' own second moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proponent.attribution.division import positive_or_one, reciprocals
from proponent.attribution.embedding.base import EmbeddedRows
from proponent.attribution.embedding.subspace import LayerSubspace

RAW_SHARE = 1 / 3
"""Part of the directions fitted on raw rows (they carry the few examples that rule IF); the rest on unit rows
(they carry RelatIF). A third to a half was measured best."""
BLOCK = 256
"""Rows that are multiplied together."""
LEAST_VALUE = 1e-6
"""Eigenvalue of unit mixtures' products below which nothing but rounding is left of a direction."""
NEARLY = 0.1
"""How far unit columns' products may be from the identity, so that their Cholesky factor makes them orthonormal in
single precision: in two thirds of the time of a QR."""
_KRYLOV_STEPS, _LEAST_WIDTH = 8, 32


def leading_eigenvectors(matrix: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """About the first ``size`` eigenvectors of a symmetric positive [n, n] float64 matrix; [n, size].

    Rayleigh-Ritz in a random block Krylov space of twice the size (Musco & Musco 2015).
    """
    n = len(matrix)
    width = max(-(-2 * size // _KRYLOV_STEPS), _LEAST_WIDTH)
    if width * _KRYLOV_STEPS >= n:
        whole: Tensor = torch.linalg.eigh(matrix)[1].flip(1)[:, :size]
        return whole
    block = torch.randn(n, width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    space, image = matrix.new_empty(n, 0), matrix.new_empty(n, 0)
    for _ in range(_KRYLOV_STEPS):
        # Twice, each time with its own QR: what rounding leaves of an exhausted space is orthogonal to nothing.
        for _ in range(2):
            block = torch.linalg.qr(block - space @ (space.mT @ block))[0]
        space = torch.cat([space, block], dim=1)
        block = (block.mT @ matrix).mT  # the same, in two thirds of the time
        image = torch.cat([image, block], dim=1)
    small = space.mT @ image
    vectors = torch.linalg.eigh((small + small.mT) / 2)[1].flip(1)[:, :size]
    found: Tensor = space @ vectors
    return found


def joint_basis(projected: Tensor, norms: Tensor, scales: Tensor, size: int, seed: int) -> Tensor:
    """V, [D, K] float32 with orthonormal columns.

    Args:
        projected: z of a sample of training rows for unit-scaled output gradients, [n, D] float32.
        norms: ||w|| of the same, [n] float64.
        scales: Factors of the output gradients, [n] float64.
        size: K; capped by n and D.
        seed: Of the random start.
    """
    unit = unit_rows(projected, norms)
    columns = unit.mT @ mixtures_of(products_of(unit), norms, scales, min(size, *projected.shape), seed)
    return orthonormal(columns, (columns.mT @ columns).double())


def mixtures_of(products: Tensor, norms: Tensor, scales: Tensor, size: int, seed: int) -> Tensor:
    """Combinations of unit rows that give the columns of V but for rounding, [n, K] float32.

    Products say them all: those of raw rows differ from those of unit rows by factors alone, so one product serves
    both, and factors over eight orders of magnitude cost no precision. Combinations that give nothing are zero.

    Args:
        products: Of the unit rows, [n, n] float64; overwritten.
        norms: ||w||, [n] float64.
        scales: Factors of the output gradients, [n] float64.
        size: K, at most n.
        seed: Of the random start.
    """
    generator = torch.Generator().manual_seed(seed)
    raw_size = round(size * RAW_SHARE)
    factors = scales * norms / (scales * norms).max().clamp(min=torch.finfo(torch.float64).tiny)
    mixed = factors[:, None] * leading_eigenvectors(factors[:, None] * products * factors, raw_size, generator)
    first, shares = _orthonormal_mixtures(mixed, products)
    products -= shares @ shares.mT
    # No factors span orders of magnitude here: single precision is enough.
    second = leading_eigenvectors(products.float(), size - first.shape[1], generator).double()
    mixtures = torch.cat([first, second - first @ (shares.mT @ second)], dim=1)
    mixtures /= mixtures.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    return F.pad(mixtures, (0, size - mixtures.shape[1])).float()


def _orthonormal_mixtures(mixtures: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Mixtures of rows, [n, k], combined so that what they give of the rows is orthonormal, and those times products.

    Args:
        mixtures: What they give of the rows is orthogonal but for rounding; those that give nothing are left out.
        products: Of the rows, [n, n].
    """
    image = products @ mixtures
    sizes = (mixtures * image).sum(dim=0)
    # First: combined with what rounding left of nothing, scaled up, the others would be lost in single precision.
    there = sizes > LEAST_VALUE * mixtures.square().sum(dim=0)
    mixtures, image, scale = mixtures[:, there], image[:, there], sizes[there].rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * (mixtures.mT @ image) * scale)
    some = values > LEAST_VALUE
    combined = scale[:, None] * vectors[:, some] * values[some].rsqrt()
    return mixtures @ combined, image @ combined


def unit_rows(projected: Tensor, norms: Tensor) -> Tensor:
    """Rows z [n, D] divided by ||w|| [n], [n, D] float32; zero where single precision does not hold that."""
    return projected * reciprocals(norms)[:, None]


def products_of(rows: Tensor) -> Tensor:
    """Rows [n, D] times their transpose, [n, n] float64, each pair of blocks once."""
    return joined((product_block(rows, number) for number in range(blocks_of(len(rows)))), rows)


def blocks_of(count: int) -> int:
    """How many blocks so many rows are multiplied in."""
    return -(-count // BLOCK)


def product_block(rows: Tensor, number: int) -> Tensor:
    """Products of a block of rows [n, D] with those of it and of all before, [``BLOCK``, ...]."""
    end = (number + 1) * BLOCK
    products: Tensor = rows[end - BLOCK : end] @ rows[:end].mT
    return products


def joined(blocks: Iterable[Tensor], rows: Tensor) -> Tensor:
    """All products of rows, [n, n] float64, from their blocks in order.

    Args:
        blocks: See `product_block`.
        rows: Tells n and the device alone: the rows, or one number of each.
    """
    total = rows.new_empty(len(rows), len(rows), dtype=torch.float64)
    for number, block in enumerate(blocks):
        here = slice(number * BLOCK, number * BLOCK + len(block))
        total[here, : here.stop] = block
        total[: here.stop, here] = block.mT
    return total


def orthonormal(columns: Tensor, products: Tensor) -> Tensor:
    """An orthonormal basis of columns, [D, K] float32, that are about orthogonal, but some of them may be nothing.

    Args:
        columns: [D, K] float32.
        products: Theirs, [K, K] float64.
    """
    sizes = products.diagonal().sqrt().clamp(min=torch.finfo(columns.dtype).tiny)
    unit, cosines = columns / sizes.to(columns), products / sizes[:, None] / sizes
    if bool((cosines - torch.eye(len(cosines)).to(cosines)).norm() < NEARLY):
        factor = torch.linalg.cholesky(cosines, upper=True).to(unit)
        solved: Tensor = torch.linalg.solve_triangular(factor, unit, upper=True, left=False)
        return solved
    basis: Tensor = torch.linalg.qr(unit)[0]
    return basis


@dataclass(frozen=True)
class SecondStage:
    """T and what the norms of the implied operator need; float64.

    Attributes:
        root: T = (M + c I)^(-1/2), [K, K].
        inverse: (M + c I)^(-1), [K, K].
        gram: V^T (Lambda + lambda)^(-1) V, [K, K].
        residual: a, the weight of directions outside V in the norms.
    """

    root: Tensor
    inverse: Tensor
    gram: Tensor
    residual: float

    def rows(self, y: Tensor, crossed: Tensor, energy: Tensor, damped_energy: Tensor) -> EmbeddedRows:
        """Phi and the norms of a batch.

        Args:
            y: V^T z, [B, K].
            crossed: V^T (Lambda + lambda)^(-1) w, [B, K].
            energy: ||w||^2, [B] float64.
            damped_energy: w^T (Lambda + lambda)^(-1) w, [B] float64.
        """
        wide, a = y.double(), self.residual
        phi = wide @ self.root
        outside = (energy - wide.square().sum(dim=1)).clamp(min=0)
        inside = wide @ self.inverse - a * wide
        norms = ((inside @ self.gram) * inside).sum(dim=1) + 2 * a * (inside * crossed.double()).sum(dim=1)
        return EmbeddedRows(
            phi=phi.float(),
            self_influence=phi.square().sum(dim=1) + a * outside,
            ihvp_norms=(norms + a * a * damped_energy).clamp(min=0).sqrt(),
            kept_energy=1 - outside / positive_or_one(energy),
        )


def second_stage(
    moment: Tensor, mean_outside: float, gram: Tensor, parameters: int, relative_damping: float
) -> SecondStage:
    """T from M, [K, K] float64, with c = ``relative_damping`` * tr(M) / K; where M is zero, T is the identity.

    Args:
        moment: M.
        mean_outside: Mean over training rows of the energy outside V.
        gram: See ``damped_gram``.
        parameters: P; the energy outside is spread over P - K directions.
        relative_damping: c in units of M's mean eigenvalue.
    """
    size = len(moment)
    c = relative_damping * float(moment.trace()) / size
    values, vectors = torch.linalg.eigh((moment + moment.mT) / 2)
    damped = values.clamp(min=0) + (c if c > 0 else 1.0)
    per_direction = mean_outside / max(parameters - size, 1)
    return SecondStage(
        root=(vectors * damped.rsqrt()) @ vectors.mT,
        inverse=(vectors / damped) @ vectors.mT,
        gram=gram,
        residual=1 / (per_direction + c) if per_direction + c > 0 else 0.0,
    )


def damped_gram(subspaces: Mapping[str, LayerSubspace], basis: Tensor) -> Tensor:
    """V^T (Lambda + lambda)^(-1) V over all layers, [K, K] float64; V = ``basis`` [D, K]."""
    total = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.float64, device=basis.device)
    parts = torch.split(basis, [subspace.size for subspace in subspaces.values()])
    for subspace, part in zip(subspaces.values(), parts, strict=True):
        total += products_of((subspace.lift(part.mT) * subspace.whitening).flatten(1))
    return total
