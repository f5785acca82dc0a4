"""Exact curvature: dense Hessian, eigendecomposition, and the rows in its eigenbasis."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from proponent.attribution.curvature.exact import check_positive, eigendecompose, exact_hessian
from proponent.attribution.embedding.base import (
    ExactEmbedding,
    ExactFactors,
    exact_factors,
    order_by_energy,
    size_for_energy,
)
from proponent.attribution.gradients.layers import num_parameters
from proponent.attribution.precision import in_double
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.rows_stage import embed_rows, scaled_gradients

SPECTRUM = "spectrum"
"""Stage of the eigenvalues and eigenvectors."""


def rebuild_exact(context: RebuildContext) -> tuple[ExactEmbedding, list[str]]:
    """Runs all stages of exact curvature; returns the embedding and the names of the row shards."""
    eigenvalues, eigenvectors = _spectrum(context)
    damping = float(context.settings.damping or 0.0)
    check_positive(eigenvalues, damping, context.classifier.spec.weight_decay)
    whole = exact_factors(eigenvalues, eigenvectors, damping, context.layers).to(context.device)
    double = replace(context, classifier=replace(context.classifier, model=in_double(context.classifier.model)))
    factors, size = _by_energy(double, whole)
    shards = embed_rows(double, lambda gradients: factors.rows(gradients, size))
    return factors.truncated(size), shards


def _spectrum(context: RebuildContext) -> tuple[Tensor, Tensor]:
    """Eigenvalues [P] and eigenvectors [P, P] of the Hessian, float64."""

    def compute() -> dict[str, Tensor]:
        hessian = context.workspace.cached("hessian", lambda: {"hessian": _hessian(context)})["hessian"]
        with context.progress.step("eigendecomposition"):
            eigenvalues, eigenvectors = eigendecompose(hessian)
        return {"eigenvalues": eigenvalues, "eigenvectors": eigenvectors}

    spectrum = context.workspace.cached(SPECTRUM, compute)
    return spectrum["eigenvalues"], spectrum["eigenvectors"]


def _hessian(context: RebuildContext) -> Tensor:
    batches = context.tracked_batches("hessian", range(len(context.data)))
    return exact_hessian(
        context.classifier.model,
        context.classifier.loss,
        ((batch.inputs, batch.labels, batch.keys) for batch in batches),
        num_examples=len(context.data),
        weight_decay=context.classifier.spec.weight_decay,
        layers=context.layers,
        max_params=context.settings.max_parameters,
    )


def _by_energy(context: RebuildContext, factors: ExactFactors) -> tuple[ExactFactors, int]:
    """Coordinates by energy, and how many to keep; all of them need no pass."""
    settings = context.settings
    parameters = num_parameters(factors.layers)
    wanted = min(settings.embedding_size or parameters, parameters)
    if wanted == parameters and settings.energy >= 1.0:
        return factors, parameters
    energy = context.workspace.cached("energy", lambda: {"energy": _energy(context, factors)})["energy"]
    size = wanted if settings.embedding_size else size_for_energy(energy, settings.energy)
    return order_by_energy(factors, energy.to(factors.damped.device)), size


def _energy(context: RebuildContext, factors: ExactFactors) -> Tensor:
    """Mean energy of each coordinate over (at most ``fit_examples``) training rows, [P] float64."""
    count = min(len(context.data), context.settings.fit_examples)
    total = torch.zeros_like(factors.damped)
    for batch in context.tracked_batches("energy", context.data.sample(count, context.settings.seed)):
        scaled, gradients = scaled_gradients(context.classifier, factors.layers, batch)
        rows = factors.rows(gradients, len(total)).phi.double() * scaled.scale[:, None]
        total += rows.square().sum(dim=0)
    return (total / count).cpu()
