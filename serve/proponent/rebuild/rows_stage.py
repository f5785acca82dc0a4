"""The embedding pass: every training example becomes a unit row and three numbers, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from proponent.attribution.capture import CaptureSession, LayerGradients
from proponent.attribution.embedding import EmbeddedRows
from proponent.attribution.gradients import ScaledGradient, scaled_output_gradient
from proponent.attribution.layers import Layers
from proponent.classifier import Classifier
from proponent.index.rows import RowScales
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.rebuild.workspace import Workspace

SHARD = 4096

Embed = Callable[[LayerGradients], EmbeddedRows]


def scaled_gradients(classifier: Classifier, layers: Layers, batch: Batch) -> tuple[ScaledGradient, LayerGradients]:
    """Gradients of a batch at its labels, up to the factor of each example."""
    with CaptureSession(classifier.model, layers) as session:
        scaled = scaled_output_gradient(classifier.loss, session.forward(batch.inputs), batch.labels)
        return scaled, session.backward(scaled.unit)


def embed_rows(
    classifier: Classifier,
    data: TrainingSet,
    layers: Layers,
    embed: Embed,
    workspace: Workspace,
    batch_size: int,
    progress: StageProgress,
) -> list[str]:
    """Runs the pass over the shards that are not finished; returns the names of all shards."""
    shards = [range(start, min(start + SHARD, len(data))) for start in range(0, len(data), SHARD)]
    names = [f"rows-{number:05d}" for number in range(len(shards))]
    open_shards = [(name, shard) for name, shard in zip(names, shards, strict=True) if not workspace.has(name)]
    done = len(shards) - len(open_shards)
    for name, shard in progress.track("embed", open_shards, len(shards), done):
        parts = [_embed_batch(classifier, layers, embed, batch) for batch in data.batches(batch_size, shard)]
        workspace.save(name, {key: torch.cat([part[key] for part in parts]) for key in parts[0]})
    return names


def _embed_batch(classifier: Classifier, layers: Layers, embed: Embed, batch: Batch) -> dict[str, Tensor]:
    scaled, gradients = scaled_gradients(classifier, layers, batch)
    rows = embed(gradients)
    norms = rows.phi.double().norm(dim=1)
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    directed = scaled.directed & (norms > 0) & (rows.ihvp_norms > 0)
    return {
        "unit": (rows.phi.double() / safe[:, None]).half().cpu(),
        "norms": (norms * scaled.scale).cpu(),
        "self_influence": (rows.self_influence * scaled.scale.square()).cpu(),
        "relative_l": _ratio(norms, rows.self_influence.sqrt()).cpu(),
        "relative_theta": _ratio(norms, rows.ihvp_norms).cpu(),
        "directed": directed.cpu(),
        "kept_energy": rows.kept_energy.cpu(),
    }


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, torch.ones_like(below)), 0.0)


def read_scales(workspace: Workspace, shards: list[str]) -> tuple[RowScales, Tensor]:
    """Scales of all rows, and the share of energy kept of each, [N] float64."""
    loaded = [workspace.load(name) for name in shards]
    joined = {key: torch.cat([shard[key] for shard in loaded]) for key in loaded[0] if key != "unit"}
    kept = joined.pop("kept_energy")
    return RowScales(**joined), kept


def unit_rows(workspace: Workspace, shards: list[str]) -> Iterator[Tensor]:
    """Unit rows [n, K] float16, shard by shard."""
    for name in shards:
        yield workspace.load(name)["unit"]
