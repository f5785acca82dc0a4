"""Exact curvature: dense Hessian, eigendecomposition, and the rows in its eigenbasis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.curvature.exact import check_positive, eigendecompose, finished_hessian, hessian_sum
from proponent.attribution.embedding.base import (
    ExactEmbedding,
    ExactFactors,
    exact_factors,
    order_by_energy,
    size_for_energy,
)
from proponent.attribution.gradients.layers import flatten_parameters, num_parameters
from proponent.attribution.precision import in_double
from proponent.rebuild.context import Compute, RebuildContext, Task
from proponent.rebuild.rows_stage import embedded, scaled_gradients
from proponent.rebuild.stationarity import find_ratio, folded

HESSIAN, SPECTRUM, ENERGY = "hessian", "spectrum", "energy"


def rebuild_exact(context: RebuildContext) -> tuple[ExactEmbedding, list[str]]:
    """Runs all stages of exact curvature; returns the embedding and the names of the row shards."""
    _fit_spectrum(context)
    whole = _factors(context)
    if _truncates(context):
        context.kept(ENERGY, ENERGY, lambda: _energy(context))
    factors, size = _by_energy(context, whole)
    shards = context.map("embed", ExactRows(), context.shards())
    named = {name: value.detach() for name, value in context.classifier.model.named_parameters()}
    find_ratio(context, shards, folded(context, [flatten_parameters(named, context.layers).double()]))
    return factors.truncated(size), shards


@dataclass(frozen=True)
class ExactRows(Task):
    """Finished rows of a chunk."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        double = _in_double(context)
        factors, size = _by_energy(context, _factors(context))
        return lambda positions: embedded(double, lambda gradients: factors.rows(gradients, size), positions)


@dataclass(frozen=True)
class HessianTask(Task):
    """The sum of a chunk's second derivatives."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            batches = ((batch.inputs, batch.labels, batch.keys) for batch in context.batches(positions))
            total, count = hessian_sum(
                context.classifier.model,
                context.classifier.loss,
                batches,
                context.layers,
                max_params=context.settings.max_parameters,
            )
            return {"hessian": total, "count": torch.tensor(count)}

        return compute


@dataclass(frozen=True)
class EnergyTask(Task):
    """The summed energy of each coordinate over a chunk's rows."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        double, factors = _in_double(context), _factors(context)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            total = torch.zeros_like(factors.damped)
            for batch in context.batches(positions):
                scaled, gradients = scaled_gradients(double.classifier, context.layers, batch)
                rows = factors.rows(gradients, len(total)).phi.double() * scaled.scale[:, None]
                total += rows.square().sum(dim=0)
            return {ENERGY: total}

        return compute


def _fit_spectrum(context: RebuildContext) -> None:
    """Eigenvalues [P] and eigenvectors [P, P] of the Hessian, float64, which must be positive with the damping."""

    def compute() -> dict[str, Tensor]:
        hessian = context.kept(HESSIAN, HESSIAN, lambda: {HESSIAN: _hessian(context)})[HESSIAN]
        with context.progress.step("eigendecomposition"):
            eigenvalues, eigenvectors = eigendecompose(hessian)
        return {"eigenvalues": eigenvalues, "eigenvectors": eigenvectors}

    eigenvalues = context.workspace.cached(SPECTRUM, compute)["eigenvalues"]
    check_positive(eigenvalues, _damping(context), context.classifier.spec.weight_decay)


def _damping(context: RebuildContext) -> float:
    return float(context.settings.damping or 0.0)


def _factors(context: RebuildContext) -> ExactFactors:
    """Of the stored spectrum, on the model's device."""
    stored = context.workspace.load(SPECTRUM)
    found = exact_factors(stored["eigenvalues"], stored["eigenvectors"], _damping(context), context.layers)
    return found.to(context.device)


def _in_double(context: RebuildContext) -> RebuildContext:
    return replace(context, classifier=replace(context.classifier, model=in_double(context.classifier.model)))


def _hessian(context: RebuildContext) -> Tensor:
    count = len(context.data)
    parts = context.parts(HESSIAN, HessianTask(), range(count), num_parameters(context.layers) ** 2)
    sums = context.total(parts, [HESSIAN, "count"])
    return finished_hessian(sums[HESSIAN], int(sums["count"]), count, context.classifier.spec.weight_decay)


def _wanted(context: RebuildContext) -> int:
    parameters = num_parameters(context.layers)
    return min(context.settings.embedding_size or parameters, parameters)


def _truncates(context: RebuildContext) -> bool:
    """Whether some coordinates are left out: those of the least energy, which takes a pass."""
    return _wanted(context) < num_parameters(context.layers) or context.settings.energy < 1.0


def _by_energy(context: RebuildContext, factors: ExactFactors) -> tuple[ExactFactors, int]:
    """Coordinates by energy, and how many to keep."""
    if not _truncates(context):
        return factors, len(factors.damped)
    energy = context.workspace.load(ENERGY)[ENERGY]
    size = _wanted(context) if context.settings.embedding_size else size_for_energy(energy, context.settings.energy)
    return order_by_energy(factors, energy.to(factors.damped.device)), size


def _energy(context: RebuildContext) -> Mapping[str, Tensor]:
    """Mean energy of each coordinate over (at most ``fit_examples``) training rows, [P] float64."""
    count = min(len(context.data), context.settings.fit_examples)
    chosen = context.data.sample(count, context.settings.seed)
    parts = context.parts(ENERGY, EnergyTask(), chosen, num_parameters(context.layers))
    return {ENERGY: context.total(parts, [ENERGY])[ENERGY] / count}
