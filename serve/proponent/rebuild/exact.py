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
from proponent.rebuild.rows_stage import embed_rows, scaled_gradients
from proponent.rebuild.stages import Stages


def rebuild_exact(stages: Stages) -> tuple[ExactEmbedding, list[str]]:
    """Runs all stages of exact curvature; returns the embedding and the names of the row shards."""
    eigenvalues, eigenvectors = _spectrum(stages)
    damping = float(stages.classifier.spec.curvature.damping or 0.0)
    check_positive(eigenvalues, damping, stages.classifier.spec.weight_decay)
    whole = exact_factors(eigenvalues, eigenvectors, damping, stages.layers).to(stages.classifier.device)
    double = replace(stages, classifier=replace(stages.classifier, model=in_double(stages.classifier.model)))
    factors, size = _by_energy(double, whole)
    shards = embed_rows(double, lambda gradients: factors.rows(gradients, size))
    return factors.truncated(size), shards


def _spectrum(stages: Stages) -> tuple[Tensor, Tensor]:
    if not stages.workspace.has("spectrum"):
        hessian = _hessian(stages)
        steps = stages.progress.track("eigendecomposition", [hessian], 1)
        [(eigenvalues, eigenvectors)] = [eigendecompose(step) for step in steps]
        stages.workspace.save("spectrum", {"eigenvalues": eigenvalues, "eigenvectors": eigenvectors})
    spectrum = stages.workspace.load("spectrum")
    return spectrum["eigenvalues"], spectrum["eigenvectors"]


def _hessian(stages: Stages) -> Tensor:
    if not stages.workspace.has("hessian"):
        batches = ((batch.inputs, batch.labels, batch.keys) for batch in stages.batches())
        hessian = exact_hessian(
            stages.classifier.model,
            stages.classifier.loss,
            stages.progress.track("hessian", batches, stages.batching.count(len(stages.data))),
            num_examples=len(stages.data),
            weight_decay=stages.classifier.spec.weight_decay,
            layers=stages.layers,
            max_params=stages.classifier.spec.curvature.max_parameters,
        )
        stages.workspace.save("hessian", {"hessian": hessian})
    return stages.workspace.load("hessian")["hessian"]


def _by_energy(stages: Stages, factors: ExactFactors) -> tuple[ExactFactors, int]:
    """Coordinates by energy, and how many to keep; all of them need no pass."""
    settings = stages.classifier.spec.curvature
    parameters = num_parameters(factors.layers)
    wanted = min(settings.embedding_size or parameters, parameters)
    if wanted == parameters and settings.energy >= 1.0:
        return factors, parameters
    if not stages.workspace.has("energy"):
        energy = _energy(stages, factors)
        stages.workspace.save("energy", {"energy": energy})
    energy = stages.workspace.load("energy")["energy"]
    size = wanted if settings.embedding_size else size_for_energy(energy, settings.energy)
    return order_by_energy(factors, energy.to(factors.damped.device)), size


def _energy(stages: Stages, factors: ExactFactors) -> Tensor:
    """Mean energy of each coordinate over (at most ``fit_examples``) training rows, [P] float64."""
    count = min(len(stages.data), stages.classifier.spec.curvature.fit_examples)
    total = torch.zeros_like(factors.damped)
    steps = stages.batching.count(count)
    positions = stages.data.sample(count, stages.classifier.spec.curvature.seed)
    for batch in stages.progress.track("energy", stages.batches(positions), steps):
        scaled, gradients = scaled_gradients(stages.classifier, factors.layers, batch)
        rows = factors.rows(gradients, len(total)).phi.double() * scaled.scale[:, None]
        total += rows.square().sum(dim=0)
    return (total / count).cpu()
