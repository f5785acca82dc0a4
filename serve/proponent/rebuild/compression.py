"""From factors to rows at one damping: the layers' subspaces, the joint basis, the projected rows, M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.embedding.joint import SecondStage, damped_gram, joint_basis, second_stage
from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.tucker import MomentAccumulator, fit_subspaces
from proponent.attribution.embedding.whitening import Whitening, make_whitening
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import num_parameters
from proponent.attribution.groups import own_curvature
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.memory import too_small
from proponent.rebuild.rows_stage import concatenated, finished_rows, scaled_gradients, shard_ranges
from proponent.rebuild.training_set import Batch

DEFAULT_SIZE = 768
LEAST_SUBSPACE, MOST_SUBSPACE = 1 << 13, 1 << 15
MOMENT_EXAMPLES = 2048
BASIS = "basis"

Directions = Mapping[str, Tensor]
"""Columns of some examples, before the joint basis; see `_directions`."""


@dataclass(frozen=True)
class Compression:
    """What turns gradients into y = V^T z at one damping.

    Attributes:
        whitening: All eigenvectors of every layer.
        subspaces: The Tucker projection of every layer.
        basis: V, [D, K] float32.
    """

    whitening: Whitening
    subspaces: Mapping[str, LayerSubspace]
    basis: Tensor

    def coordinates(self, gradients: LayerGradients) -> Tensor:
        """Y of a batch, [B, K]."""
        z = [subspace.project(gradients[name]) for name, subspace in self.subspaces.items()]
        return torch.cat(z, dim=1) @ self.basis


def compress(
    context: RebuildContext, factors: Mapping[str, LayerFactors], damping: float
) -> tuple[Compression, list[str]]:
    """Fits subspaces and joint basis at a damping, and projects all rows; returns also the names of their shards.

    The basis is fitted to a sample. One of the whole training set is kept, and spares the pass over it.
    """
    relative, weight_decay = context.settings.relative, context.classifier.spec.weight_decay
    whitening = make_whitening(factors, damping, relative=relative, device=context.device, weight_decay=weight_decay)
    subspaces = _cached_subspaces(context, whitening)
    everything: Directions | None = None
    if not context.workspace.has(BASIS):
        count, total = _sample_size(context, subspaces), len(context.data)
        if count < total:
            chosen = context.data.sample(count, context.settings.seed + 2)
            _save_basis(context, _sampled(context, whitening, subspaces, chosen))
        else:
            # By shards, so that these rows are what a resumed pass over them computes, bit by bit.
            everything = _sampled(context, whitening, subspaces, *shard_ranges(total).values())
            _save_basis(context, everything)
    basis = context.workspace.load(BASIS)["basis"].to(context.device)
    compression = Compression(whitening, subspaces, basis)
    return compression, _project_rows(context, compression, everything)


def _cached_subspaces(context: RebuildContext, whitening: Whitening) -> dict[str, LayerSubspace]:
    """The subspaces, fitted once: what is stored after them holds for no other choice of eigenvectors."""

    def compute() -> Mapping[str, Tensor]:
        fitted = _fit_subspaces(context, whitening)
        return SubspaceEmbedding(context.layers, fitted, torch.empty(0, 0)).tensors()

    stored = SubspaceEmbedding.from_tensors("", context.workspace.cached("subspaces", compute), context.layers)
    return dict(stored.to(context.device).subspaces)


def _fit_subspaces(context: RebuildContext, whitening: Whitening) -> dict[str, LayerSubspace]:
    settings = context.settings
    moments = MomentAccumulator(whitening, settings.seed)
    positions = context.data.sample(min(settings.fit_examples, MOMENT_EXAMPLES), settings.seed + 1)

    def update(batch: Batch) -> None:
        _, gradients = scaled_gradients(context.classifier, context.layers, batch)
        moments.update(whitening, gradients, batch.keys)

    context.fold("directions", moments, positions, update)
    with context.progress.step("subspaces"):
        if settings.subspace_size:
            return fit_subspaces(moments, whitening, settings.subspace_size)
        return fit_subspaces(moments, whitening, most_subspace(num_parameters(context.layers)), LEAST_SUBSPACE)


def most_subspace(parameters: int) -> int:
    """Most numbers D for P covered parameters, unless the spec says: an eighth of them within bounds.

    Networks with more of them need more for RelatIF.
    """
    return min(max(parameters // 8, 2 * LEAST_SUBSPACE), MOST_SUBSPACE)


def _sampled(
    context: RebuildContext, whitening: Whitening, subspaces: Mapping[str, LayerSubspace], *parts: Sequence[int]
) -> Directions:
    """The directions of some parts of the training set, in their order."""
    batches = context.tracked_batches("joint sample", *parts)
    return concatenated([_directions(context, whitening, subspaces, batch) for batch in batches])


def _save_basis(context: RebuildContext, sample: Directions) -> None:
    """Fits V, [D, K], to a sample."""
    size, norms = context.settings.embedding_size or DEFAULT_SIZE, sample["energy"].sqrt()
    with context.progress.step("joint basis"):
        basis = joint_basis(sample["z"], norms, sample["scale"], size, context.settings.seed)
        context.workspace.save(BASIS, {"basis": basis})


def _sample_size(context: RebuildContext, subspaces: Mapping[str, LayerSubspace]) -> int:
    """How many rows the joint basis is fitted on: z, a copy and as much again, and their products a few times.

    Raises:
        SpecError: The memory holds fewer rows than the basis is to have directions.
    """
    width = sum(subspace.size for subspace in subspaces.values())
    settings, memory = context.settings, context.batching.memory
    by_width, by_count = memory // 4 // (4 * 4 * width), isqrt(memory // 4 // (3 * 8))
    count = min(settings.fit_examples, by_width, by_count)
    wanted = min(settings.embedding_size or DEFAULT_SIZE, settings.fit_examples, len(context.data), width)
    if count < wanted:
        needed = 4 * wanted * max(4 * 4 * width, 3 * 8 * wanted)
        raise too_small(memory, needed, f"a joint basis of {wanted} out of {width:,} directions")
    return count


def _directions(
    context: RebuildContext, whitening: Whitening, subspaces: Mapping[str, LayerSubspace], batch: Batch
) -> Directions:
    """Z and R^T (Lambda + lambda)^-1 w C of all layers, ||w||^2 and w^T (Lambda + lambda)^-1 w of a batch."""
    scaled, gradients = scaled_gradients(context.classifier, context.layers, batch)
    z: dict[str, list[Tensor]] = {name: [] for name in gradients}
    crossed: dict[str, list[Tensor]] = {name: [] for name in gradients}
    energy, damped_energy = torch.zeros_like(scaled.scale), torch.zeros_like(scaled.scale)
    for name, gradient in gradients.items():
        for some in gradient.slices():
            value = whitening[name].apply(gradient.examples(some))
            inside, weighted = subspaces[name].compress_all(value, whitening[name].root)
            z[name].append(inside)
            crossed[name].append(weighted)
            energy[some] += value.energy()
            damped_energy[some] += value.damped_energy()
    return {
        "z": torch.cat([torch.cat(parts) for parts in z.values()], dim=1),
        "crossed": torch.cat([torch.cat(parts) for parts in crossed.values()], dim=1),
        "energy": energy,
        "damped_energy": damped_energy,
        "scale": scaled.scale,
        "directed": scaled.has_direction,
    }


def _project_rows(context: RebuildContext, compression: Compression, everything: Directions | None) -> list[str]:
    """The pass over all rows, shard by shard; the directions of all of them spare it most of the work."""
    shards = {f"y-{name}": positions for name, positions in shard_ranges(len(context.data)).items()}
    for name in context.unfinished("project", shards):
        positions = shards[name]
        if everything is None:
            parts = [project_batch(context, compression, batch) for batch in context.batches(positions)]
        else:
            blocks = _blocks(everything, positions, context.batching.block)
            parts = [_onto_basis(block, compression.basis) for block in blocks]
        context.workspace.save(name, concatenated(parts))
    return list(shards)


def _blocks(everything: Directions, positions: range, size: int) -> Iterator[Directions]:
    for start in range(positions.start, positions.stop, size):
        rows = slice(start, min(start + size, positions.stop))
        yield {name: column[rows] for name, column in everything.items()}


def project_batch(context: RebuildContext, compression: Compression, batch: Batch) -> dict[str, Tensor]:
    """Y = V^T z of a batch, and what the norms need."""
    return _onto_basis(_directions(context, compression.whitening, compression.subspaces, batch), compression.basis)


def _onto_basis(rows: Directions, basis: Tensor) -> dict[str, Tensor]:
    """Y = V^T z and V^T (Lambda + lambda)^-1 w in place of what they are projected from."""
    columns = {key: value for key, value in rows.items() if key != "z"}
    return columns | {"y": rows["z"] @ basis, "crossed": rows["crossed"] @ basis}


def fit_second_stage(
    context: RebuildContext, compression: Compression, projected: Sequence[str], second_damping: float
) -> SecondStage:
    """The second stage from the projected rows."""
    moment, outside = moments(context, projected)
    gram = damped_gram(compression.subspaces, compression.basis).cpu()
    stage = second_stage(moment, outside, gram, num_parameters(context.layers), second_damping)
    device = context.device
    return SecondStage(stage.root.to(device), stage.inverse.to(device), stage.gram.to(device), stage.residual)


def moments(context: RebuildContext, projected: Sequence[str]) -> tuple[Tensor, float]:
    """M, [K, K] float64, and the mean energy outside V, each row weighted as a Gauss-Newton matrix would.

    A gradient g of a well-fitted example is (1 - p) times a direction, so that g g^T weighs it by (1 - p)^2 and
    a few misfits rule the mean. The Gauss-Newton matrix weighs the same direction by p (1 - p), about (1 - p):
    that is g g^T divided by the size of the output gradient.
    """
    moment: Tensor | float = 0.0
    outside = 0.0
    for name in projected:
        shard = context.workspace.load(name)
        y, scale = shard["y"].double(), shard["scale"]
        moment = moment + (y * scale[:, None]).mT @ y
        outside += float((scale * (shard["energy"] - y.square().sum(dim=1))).sum())
    assert isinstance(moment, Tensor)
    return moment / len(context.data), max(outside, 0.0) / len(context.data)


def finish_rows(context: RebuildContext, stage: SecondStage, projected: Sequence[str]) -> list[str]:
    """The finished row shards from the projected ones."""
    sources = dict(zip(shard_ranges(len(context.data)), projected, strict=True))
    for name in context.unfinished("embed", sources):
        shard = {key: value.to(stage.root.device) for key, value in context.workspace.load(sources[name]).items()}
        rows = stage.rows(shard["y"], shard["crossed"], shard["energy"], shard["damped_energy"])
        own = own_curvature(context.classifier.loss, shard["scale"])
        context.workspace.save(name, finished_rows(rows, shard["scale"], shard["directed"], own))
    return list(sources)
