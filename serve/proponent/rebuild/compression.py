"""From factors to projected rows at one damping: the whitening, the layers' subspaces, the joint basis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.tucker import MomentAccumulator, Side, Sides, fit_subspaces
from proponent.attribution.embedding.whitening import Whitening, make_whitening
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import num_parameters
from proponent.rebuild.block_gradients import labelled
from proponent.rebuild.context import Compute, LayerTask, RebuildContext, Task, chunked, concatenated
from proponent.rebuild.directions import (
    SUBSPACES,
    WHITENING,
    Directions,
    directions_of,
    stored_subspaces,
    stored_whitening,
)
from proponent.rebuild.joint_sample import LEAST_SUBSPACE, moment_sample, most_subspace, places_of, row_order
from proponent.rebuild.joint_stage import SAMPLE, WHOLE, discard_parts, fit_basis, from_pieces

MOMENTS, SIDES, BASIS = "directions", "sides", "basis"


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

    These hold the rows in `row_order`, see `rows_at`. The basis is fitted to a sample; one of the whole training set
    is kept, and spares the pass over it.
    """
    narrow(context, factors, damping)
    context.workspace.cached(BASIS, lambda: fit_basis(context))
    discard_parts(context)
    projected = context.map(
        "project", ProjectionTask(), chunked("y-rows", row_order(context), context.batching.chunk)
    )
    for sample in (SAMPLE, WHOLE):
        context.workspace.discard(sample)
    return stored_compression(context), projected


def narrow(context: RebuildContext, factors: Mapping[str, LayerFactors], damping: float) -> dict[str, LayerSubspace]:
    """Whitens at a damping and fits the layers' subspaces, where no earlier run did."""
    context.workspace.cached(WHITENING, lambda: _flat_whitening(context, factors, damping))
    context.kept(SUBSPACES, MOMENTS, lambda: _fit_subspaces(context))
    context.workspace.discard(SIDES)
    return stored_subspaces(context)


def rows_at(
    context: RebuildContext, shards: Sequence[str], positions: Sequence[int], columns: Collection[str]
) -> dict[str, Tensor]:
    """Some columns of the projected rows at some positions."""
    places, chunk = places_of(context, positions), context.batching.chunk
    needed = sorted(set((places // chunk).tolist()))
    found = concatenated([context.workspace.load_some(shards[number], columns) for number in needed])
    rows = torch.searchsorted(torch.tensor(needed), places // chunk) * chunk + places % chunk
    return {name: column[rows] for name, column in found.items()}


def stored_compression(context: RebuildContext) -> Compression:
    """What the finished stages say, on the model's device."""
    basis = context.workspace.load(BASIS)["basis"].to(context.device)
    return Compression(stored_whitening(context), stored_subspaces(context), basis)


def _flat_whitening(
    context: RebuildContext, factors: Mapping[str, LayerFactors], damping: float
) -> dict[str, Tensor]:
    relative, weight_decay = context.settings.relative, context.classifier.spec.weight_decay
    found = make_whitening(factors, damping, relative=relative, device=context.device, weight_decay=weight_decay)
    return {f"{part}/{name}": value for name, layer in found.items() for part, value in vars(layer).items()}


@dataclass(frozen=True)
class MomentTask(Task):
    """Second moments of a chunk's unit rows."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        whitening = stored_whitening(context)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            moments = MomentAccumulator(whitening, context.settings.seed)
            for batch in context.batches(positions):
                gradients = labelled(context, batch, is_last=False).rotated(whitening)
                moments.update(whitening, gradients, batch.keys)
            return moments.state()

        return compute


@dataclass(frozen=True)
class SidesTask(LayerTask):
    """Eigenvectors of a layer's second moments, from the parts of all layers' sums."""

    parts: tuple[str, ...]

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            names = [f"{side}/{name}" for name in self.names(context, numbers) for side in ("rows", "columns")]
            sides = {name: Side.of(moment) for name, moment in context.total(self.parts, names).items()}
            kept = {f"kept/{name}": torch.tensor(side.kept, dtype=torch.float64) for name, side in sides.items()}
            return kept | {name: side.vectors for name, side in sides.items()}

        return compute


def _sides(context: RebuildContext) -> dict[str, Sides]:
    """Of all layers, on the model's device."""
    numbers = sum((layer.groups * layer.out) ** 2 + layer.inputs**2 for layer in context.layers.values())
    parts = context.parts(MOMENTS, MomentTask(), moment_sample(context), numbers)
    found = context.map_layers(SIDES, SidesTask(tuple(parts)))

    def side(name: str) -> Side:
        return Side(found[name].to(context.device), found[f"kept/{name}"].tolist())

    return {name: Sides(side(f"rows/{name}"), side(f"columns/{name}")) for name in context.layers}


def _fit_subspaces(context: RebuildContext) -> Mapping[str, Tensor]:
    settings, whitening, sides = context.settings, stored_whitening(context), _sides(context)
    with context.progress.step("subspaces"):
        if settings.subspace_size:
            fitted = fit_subspaces(sides, whitening, settings.subspace_size)
        else:
            most = most_subspace(num_parameters(context.layers))
            fitted = fit_subspaces(sides, whitening, most, LEAST_SUBSPACE)
    return SubspaceEmbedding(context.layers, fitted, torch.empty(0, 0)).tensors()


@dataclass(frozen=True)
class ProjectionTask(Task):
    """The projected rows of a shard; of its directions where they were kept."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        compression = stored_compression(context)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            kept = f"{WHOLE}-{int(places_of(context, positions[:1])) // context.batching.chunk:05d}"
            if not context.workspace.has(kept):
                return project_all(context, compression, positions)
            rows = from_pieces(context.workspace.load(kept))
            return _onto_basis({name: value.to(context.device) for name, value in rows.items()}, compression.basis)

        return compute


def project_all(context: RebuildContext, compression: Compression, positions: Sequence[int]) -> dict[str, Tensor]:
    """Y = V^T z of some examples, and what the norms need."""
    found = directions_of(context, compression.whitening, compression.subspaces, positions)
    return _onto_basis(found, compression.basis)


def _onto_basis(rows: Directions, basis: Tensor) -> dict[str, Tensor]:
    """Y = V^T z and V^T (Lambda + lambda)^-1 w in place of what they are projected from."""
    columns = {key: value for key, value in rows.items() if key != "z"}
    return columns | {"y": rows["z"] @ basis, "crossed": rows["crossed"] @ basis}
