"""Curvature of whole sets of batches at once, in memory: what a rebuild computes in resumable stages."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from proponent.attribution.curvature.ekfac import LambdaAccumulator
from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.curvature.fisher import Accumulator, FisherKind, fisher_gradients
from proponent.attribution.curvature.kfac import CovarianceAccumulator, eigenbases
from proponent.attribution.functional import LabelledBatch
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import Layers, num_parameters
from proponent.attribution.losses import Loss
from proponent.attribution.precision import in_double


def accumulate(
    accumulator: Accumulator,
    model: nn.Module,
    loss: Loss,
    batches: Iterable[LabelledBatch],
    layers: Layers,
    *,
    kind: FisherKind = "true",
    seed: int = 0,
    draws: int = 1,
) -> None:
    """Feeds an accumulator with the Fisher gradients of all batches."""
    with CaptureSession(model, layers) as session:
        for inputs, labels, ids in batches:
            outputs = session.forward(inputs)
            passes = fisher_gradients(session, loss, outputs, labels, ids, kind=kind, seed=seed, draws=draws)
            accumulator.update(passes, len(labels))


def fit_kfac(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[LabelledBatch],
    layers: Layers,
    *,
    kind: FisherKind = "true",
    seed: int = 0,
    draws: int = 1,
) -> dict[str, LayerFactors]:
    """K-FAC factors in one pass."""
    accumulator = CovarianceAccumulator(layers, next(model.parameters()).device)
    accumulate(accumulator, model, loss, batches, layers, kind=kind, seed=seed, draws=draws)
    return eigenbases(accumulator.state(), layers)


def fit_ekfac(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[LabelledBatch],
    layers: Layers,
    *,
    kind: FisherKind = "true",
    seed: int = 0,
    draws: int = 1,
) -> dict[str, LayerFactors]:
    """EK-FAC factors in two passes."""
    accumulator = LambdaAccumulator(fit_kfac(model, loss, batches, layers, kind=kind, seed=seed, draws=draws))
    accumulate(accumulator, model, loss, batches, layers, kind=kind, seed=seed, draws=draws)
    return accumulator.factors()


def dense_ggn(
    model: nn.Module, loss: Loss, batches: Iterable[LabelledBatch], layers: Layers, *, weight_decay: float = 0.0
) -> Tensor:
    """``(1/N) sum_i J_i^T H_out,i J_i + wd I`` [P, P] float64, from the captured gradients."""
    size, count, double = num_parameters(layers), 0, in_double(model)
    total = torch.zeros(size, size, dtype=torch.float64)
    for inputs, labels, ids in batches:
        with CaptureSession(double, layers) as session:
            outputs = session.forward(inputs)
            for gradients in fisher_gradients(session, loss, outputs, labels, ids, kind="ggn"):
                rows = flat_gradients(gradients)
                total += rows.T @ rows
        count += len(labels)
    return total / count + weight_decay * torch.eye(size, dtype=torch.float64)
