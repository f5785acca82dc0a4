"""From factors to projected rows at one damping: the whitening, the layers' subspaces, the joint basis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.embedding.joint import blocks_of, joined, joint_basis, product_block, unit_rows
from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.tucker import MomentAccumulator, Side, Sides, fit_subspaces
from proponent.attribution.embedding.whitening import LayerWhitening, Whitening, make_whitening
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import num_parameters
from proponent.rebuild.block_gradients import labelled
from proponent.rebuild.context import Compute, LayerTask, RebuildContext, Task, chunked, concatenated
from proponent.rebuild.joint_sample import (
    DEFAULT_SIZE,
    LEAST_SUBSPACE,
    moment_sample,
    most_subspace,
    places_of,
    row_order,
    sample_size,
)
from proponent.rebuild.stationarity import GRADIENT, NORMS, folded
from proponent.rebuild.training_set import Batch

WHITENING, MOMENTS, SIDES, SUBSPACES, BASIS = "whitening", "directions", "sides", "subspaces", "basis"
SAMPLE, WHOLE, PRODUCTS = "sample", "whole-sample", "products"

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

    These hold the rows in `row_order`, see `rows_at`. The basis is fitted to a sample; one of the whole training set
    is kept, and spares the pass over it.
    """
    context.workspace.cached(WHITENING, lambda: _flat_whitening(context, factors, damping))
    context.kept(SUBSPACES, MOMENTS, lambda: _fit_subspaces(context))
    context.workspace.discard(SIDES)
    context.kept(BASIS, PRODUCTS, lambda: _fit_basis(context))
    projected = context.map(
        "project", ProjectionTask(), chunked("y-rows", row_order(context), context.batching.chunk)
    )
    for sample in (SAMPLE, WHOLE):
        context.workspace.discard(sample)
    return stored_compression(context), projected


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


def stored_whitening(context: RebuildContext) -> Whitening:
    """All eigenvectors of every layer at the damping of this workspace."""
    stored = context.workspace.load(WHITENING)
    return {
        name: LayerWhitening(*(stored[f"{part}/{name}"].to(context.device) for part in ("q_out", "q_in", "root")))
        for name in context.layers
    }


def stored_subspaces(context: RebuildContext) -> dict[str, LayerSubspace]:
    """The subspaces, fitted once: what is stored after them holds for no other choice of eigenvectors."""
    stored = SubspaceEmbedding.from_tensors("", context.workspace.load(SUBSPACES), context.layers)
    return dict(stored.to(context.device).subspaces)


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
class DirectionsTask(Task):
    """The directions of a chunk, which the basis is fitted to."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        whitening, subspaces = stored_whitening(context), stored_subspaces(context)

        def compute(positions: Sequence[int]) -> Directions:
            return _all_directions(context, whitening, subspaces, positions)

        return compute


@dataclass(frozen=True)
class ProductsTask(Task):
    """Products of the sample's unit rows, by the numbers of their blocks."""

    sample: tuple[str, ...]
    positions: tuple[int, ...]

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        context.gradients.clear()
        sample = _loaded_sample(context, self.sample, self.positions)
        rows = unit_rows(sample["z"], sample["energy"].sqrt())
        del sample
        return lambda numbers: {f"{PRODUCTS}/{number}": product_block(rows, number) for number in numbers}

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        return f"block {item} of the joint sample"


def _loaded_sample(context: RebuildContext, names: Sequence[str], positions: Sequence[int]) -> dict[str, Tensor]:
    """What the basis is fitted to, by ascending positions, on the model's device."""
    sample = concatenated([context.workspace.load_some(name, ["z", "energy", "scale"]) for name in names])
    order = torch.tensor(positions).argsort()
    return {name: value[order].to(context.device) for name, value in sample.items()}


def _fit_basis(context: RebuildContext) -> dict[str, Tensor]:
    """V, [D, K], of a sample, whose directions stay until the rows are projected."""
    width = sum(subspace.size for subspace in stored_subspaces(context).values())
    count, total = sample_size(context, width), len(context.data)
    chosen = context.data.sample(count, context.settings.seed + 2) if count < total else row_order(context)
    # By its size, which follows from the memory: a killed rebuild that goes on with another takes no part of both.
    chunks = chunked(f"{SAMPLE}-{count}" if count < total else WHOLE, chosen, context.batching.chunk)
    names = context.map("joint sample", DirectionsTask(), chunks)
    # The last block takes longest, so that it begins first.
    blocks = range(blocks_of(len(chosen)))
    last_first = reversed(chunked(f"{PRODUCTS}-{len(chosen)}", blocks, 1).items())
    products = sorted(context.map(PRODUCTS, ProductsTask(tuple(names), tuple(chosen)), dict(last_first)))
    sample = _loaded_sample(context, names, chosen)
    size, load = context.settings.embedding_size or DEFAULT_SIZE, context.workspace.load

    def multiply(rows: Tensor) -> Tensor:
        return joined((block.to(rows.device) for name in products for block in load(name).values()), rows)

    with context.progress.step("joint basis"):
        norms, scales, seed = sample["energy"].sqrt(), sample["scale"], context.settings.seed
        return {"basis": joint_basis(sample["z"], norms, scales, size, seed, multiply)}


def _all_directions(
    context: RebuildContext, whitening: Whitening, subspaces: Mapping[str, LayerSubspace], positions: Sequence[int]
) -> Directions:
    """Directions of some examples, and the sum of their gradients."""
    sums = {name: torch.zeros_like(layer.root, dtype=torch.float64) for name, layer in whitening.items()}
    rows = context.of_each(positions, lambda batch: _directions(context, whitening, subspaces, batch, sums))
    return {**rows, GRADIENT: folded(context, sums.values())}


def _directions(
    context: RebuildContext,
    whitening: Whitening,
    subspaces: Mapping[str, LayerSubspace],
    batch: Batch,
    sums: Mapping[str, Tensor],
) -> Directions:
    """Z and R^T (Lambda + lambda)^-1 w C of all layers, ||w||^2 and w^T (Lambda + lambda)^-1 w of a batch.

    Its gradients are added to ``sums``, in the eigenbases.
    """
    found = labelled(context, batch, is_last=True)
    scaled, gradients = found.scaled, found.rotated(whitening)
    z: dict[str, list[Tensor]] = {name: [] for name in gradients}
    crossed: dict[str, list[Tensor]] = {name: [] for name in gradients}
    energy, damped_energy, squares = (torch.zeros_like(scaled.scale) for _ in range(3))
    for name, parts in gradients.items():
        for some, coordinates in parts:
            value = whitening[name].whiten(coordinates)
            inside, weighted = subspaces[name].compress_all(value, whitening[name].root)
            z[name].append(inside)
            crossed[name].append(weighted)
            energy[some] += value.energy()
            damped_energy[some] += value.damped_energy()
            squares[some] += value.gradient_norms().square()
            sums[name] += value.gradient_sum(scaled.scale[some])
    return {
        "z": torch.cat([torch.cat(parts) for parts in z.values()], dim=1),
        "crossed": torch.cat([torch.cat(parts) for parts in crossed.values()], dim=1),
        "energy": energy,
        "damped_energy": damped_energy,
        "scale": scaled.scale,
        "directed": scaled.has_direction,
        NORMS: squares.sqrt() * scaled.scale,
    }


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
            rows = {name: value.to(context.device) for name, value in context.workspace.load(kept).items()}
            return _onto_basis(rows, compression.basis)

        return compute


def project_all(context: RebuildContext, compression: Compression, positions: Sequence[int]) -> dict[str, Tensor]:
    """Y = V^T z of some examples, and what the norms need."""
    found = _all_directions(context, compression.whitening, compression.subspaces, positions)
    return _onto_basis(found, compression.basis)


def _onto_basis(rows: Directions, basis: Tensor) -> dict[str, Tensor]:
    """Y = V^T z and V^T (Lambda + lambda)^-1 w in place of what they are projected from."""
    columns = {key: value for key, value in rows.items() if key != "z"}
    return columns | {"y": rows["z"] @ basis, "crossed": rows["crossed"] @ basis}
