"""Exact curvature: dense Hessian, eigendecomposition, and the rows in its eigenbasis."""

from __future__ import annotations

import torch
from torch import Tensor

from proponent.attribution.curvature.exact import check_positive, eigendecompose, exact_hessian
from proponent.attribution.embedding import (
    EmbeddedRows,
    ExactEmbedding,
    ExactFactors,
    exact_factors,
    order_by_energy,
    size_for_energy,
)
from proponent.attribution.layers import Layers, num_parameters
from proponent.classifier import Classifier
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import embed_rows, scaled_gradients
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace


def rebuild_exact(
    classifier: Classifier,
    data: TrainingSet,
    layers: Layers,
    workspace: Workspace,
    batch_size: int,
    progress: StageProgress,
) -> tuple[ExactEmbedding, list[str]]:
    """Runs all stages of exact curvature; returns the embedding and the names of the row shards."""
    eigenvalues, eigenvectors = _spectrum(classifier, data, layers, workspace, batch_size, progress)
    damping = float(classifier.spec.curvature.damping or 0.0)
    check_positive(eigenvalues, damping)
    factors = exact_factors(eigenvalues, eigenvectors, damping, layers)
    factors = ExactFactors(layers, factors.whitening.to(classifier.device), factors.damped.to(classifier.device))
    factors, size = _by_energy(classifier, data, factors, workspace, batch_size, progress)

    def embed(gradients: dict[str, object]) -> EmbeddedRows:
        return factors.rows(gradients, size)  # type: ignore[arg-type]

    shards = embed_rows(classifier, data, layers, embed, workspace, batch_size, progress)
    return factors.truncated(size), shards


def _spectrum(
    classifier: Classifier,
    data: TrainingSet,
    layers: Layers,
    workspace: Workspace,
    batch_size: int,
    progress: StageProgress,
) -> tuple[Tensor, Tensor]:
    if not workspace.has("spectrum"):
        hessian = _hessian(classifier, data, layers, workspace, batch_size, progress)
        steps = progress.track("eigendecomposition", [hessian], 1)
        [(eigenvalues, eigenvectors)] = [eigendecompose(step) for step in steps]
        workspace.save("spectrum", {"eigenvalues": eigenvalues, "eigenvectors": eigenvectors})
    spectrum = workspace.load("spectrum")
    return spectrum["eigenvalues"], spectrum["eigenvectors"]


def _hessian(
    classifier: Classifier,
    data: TrainingSet,
    layers: Layers,
    workspace: Workspace,
    batch_size: int,
    progress: StageProgress,
) -> Tensor:
    if not workspace.has("hessian"):
        batches = ((batch.inputs, batch.labels) for batch in data.batches(batch_size))
        hessian = exact_hessian(
            classifier.model,
            classifier.loss,
            progress.track("hessian", batches, -(-len(data) // batch_size)),
            num_examples=len(data),
            weight_decay=classifier.spec.weight_decay,
            layers=layers,
            max_params=classifier.spec.curvature.max_parameters,
        )
        workspace.save("hessian", {"hessian": hessian})
    return workspace.load("hessian")["hessian"]


def _by_energy(
    classifier: Classifier,
    data: TrainingSet,
    factors: ExactFactors,
    workspace: Workspace,
    batch_size: int,
    progress: StageProgress,
) -> tuple[ExactFactors, int]:
    """Coordinates by energy, and how many to keep; all of them need no pass."""
    settings = classifier.spec.curvature
    parameters = num_parameters(factors.layers)
    wanted = min(settings.embedding_size or parameters, parameters)
    if wanted == parameters and settings.energy >= 1.0:
        return factors, parameters
    if not workspace.has("energy"):
        energy = _energy(classifier, data, factors, batch_size, progress)
        workspace.save("energy", {"energy": energy})
    energy = workspace.load("energy")["energy"]
    size = wanted if settings.embedding_size else size_for_energy(energy, settings.energy)
    return order_by_energy(factors, energy.to(factors.damped.device)), size


def _energy(
    classifier: Classifier, data: TrainingSet, factors: ExactFactors, batch_size: int, progress: StageProgress
) -> Tensor:
    """Mean energy of each coordinate over (at most ``fit_examples``) training rows, [P] float64."""
    count = min(len(data), classifier.spec.curvature.fit_examples)
    total = torch.zeros_like(factors.damped)
    steps = -(-count // batch_size)
    for batch in progress.track("energy", data.batches(batch_size, range(count)), steps):
        scaled, gradients = scaled_gradients(classifier, factors.layers, batch)
        rows = factors.rows(gradients, len(total)).phi.double() * scaled.scale[:, None]
        total += rows.square().sum(dim=0)
    return (total / count).cpu()
