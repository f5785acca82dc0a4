"""The embedding pass: every training example becomes a unit row and three numbers, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one, ratio
from proponent.attribution.embedding.base import EmbeddedRows
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.gradients.scaling import ScaledGradient, scaled_output_gradient
from proponent.attribution.groups import own_curvature
from proponent.classifier import Classifier
from proponent.index.searchable import SCALE_COLUMNS, RowScales
from proponent.rebuild.context import RebuildContext, concatenated
from proponent.rebuild.stationarity import GRADIENT, NORMS, folded
from proponent.rebuild.training_set import Batch
from proponent.rebuild.workspace import Workspace

Embed = Callable[[LayerGradients], EmbeddedRows]


def scaled_gradients(classifier: Classifier, layers: Layers, batch: Batch) -> tuple[ScaledGradient, LayerGradients]:
    """Gradients of a batch at its labels, up to the factor of each example."""
    with CaptureSession(classifier.model, layers) as session:
        scaled = scaled_output_gradient(classifier.loss, session.forward(batch.inputs), batch.labels)
        return scaled, session.backward(scaled.unit)


def embedded(context: RebuildContext, embed: Embed, positions: Sequence[int]) -> dict[str, Tensor]:
    """Finished rows of some examples, and the sum of their gradients."""
    sums: list[Tensor] = []

    def rows(batch: Batch) -> dict[str, Tensor]:
        scaled, gradients = scaled_gradients(context.classifier, context.layers, batch)
        own = own_curvature(context.classifier.loss, scaled.scale)
        flat = flat_gradients(gradients).double() * scaled.scale[:, None]
        sums.append(flat.sum(dim=0))
        found = finished_rows(embed(gradients), scaled.scale, scaled.has_direction, own)
        return found | {NORMS: flat.norm(dim=1).cpu()}

    found = context.of_each(positions, rows)
    return found | {GRADIENT: folded(context, [torch.stack(sums).sum(dim=0)])}


def finished_rows(rows: EmbeddedRows, scale: Tensor, has_direction: Tensor, own: Tensor) -> dict[str, Tensor]:
    """What is stored of a batch: unit rows, and scales with the factor [B] of each gradient put back.

    ``own`` is the curvature of each example along its unit-scaled gradient, [B] float64.
    """
    norms = rows.phi.double().norm(dim=1)
    return {
        "unit": (rows.phi.double() / positive_or_one(norms)[:, None]).half().cpu(),
        "norms": (norms * scale).cpu(),
        "self_influence": (rows.self_influence * scale.square()).cpu(),
        "relative_l": ratio(norms, rows.self_influence.sqrt()).cpu(),
        "relative_theta": ratio(norms, rows.ihvp_norms).cpu(),
        "curvature": (own * norms.square()).cpu(),
        "directed": (has_direction & (norms > 0) & (rows.ihvp_norms > 0)).cpu(),
        "kept_energy": rows.kept_energy.cpu(),
    }


def read_scales(workspace: Workspace, shards: list[str]) -> tuple[RowScales, Tensor]:
    """Scales of all rows, and the share of energy kept of each, [N] float64."""
    columns = concatenated([workspace.load_some(name, [*SCALE_COLUMNS, "kept_energy"]) for name in shards])
    return RowScales.from_columns(columns), columns["kept_energy"]


def unit_rows(workspace: Workspace, shards: list[str]) -> Iterator[Tensor]:
    """Unit rows [n, K] float16, shard by shard."""
    for name in shards:
        yield workspace.load_some(name, ["unit"])["unit"]
