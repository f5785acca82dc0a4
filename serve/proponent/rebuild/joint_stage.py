"""The joint basis V of a sample's directions: workers multiply its rows, and mix of them what eigenvectors say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.embedding.joint import (
    blocks_of,
    joined,
    mixtures_of,
    orthonormal,
    product_block,
    unit_rows,
)
from proponent.rebuild.context import Compute, RebuildContext, Task, chunked, concatenated
from proponent.rebuild.directions import Directions, directions_of, stored_subspaces, stored_whitening
from proponent.rebuild.joint_sample import DEFAULT_SIZE, row_order, sample_size

SAMPLE, WHOLE, PRODUCTS, MIXTURES, COLUMNS = "sample", "whole-sample", "products", "mixtures", "columns"
PIECES = 16
"""Parts of a direction's numbers that are stored apart, so that whoever needs one reads no other."""


@dataclass(frozen=True)
class JointSample:
    """Directions of some examples, in shards.

    Attributes:
        shards: Names of the stages that hold them.
        positions: Of the examples, in the order of the shards; the rows are taken by ascending positions.
        width: Numbers of a direction, D.
    """

    shards: tuple[str, ...]
    positions: tuple[int, ...]
    width: int

    def stage(self, name: str) -> str:
        """Of what is computed of it: with its size, so that a rebuild that goes on with other memory mixes no two."""
        return f"{name}-{len(self.positions)}"

    def unit_rows(self, context: RebuildContext, pieces: Sequence[str]) -> Tensor:
        """Some pieces of the rows, divided by the norms of whole rows, on the model's device."""

        def unit(shard: str) -> Tensor:
            stored = context.workspace.load_some(shard, [*pieces, "energy"])
            z, norms = torch.cat([stored[piece] for piece in pieces], dim=1), stored["energy"].sqrt()
            return unit_rows(z.to(context.device), norms.to(context.device))

        return torch.cat([unit(shard) for shard in self.shards])[self._order]

    def column(self, context: RebuildContext, name: str) -> Tensor:
        """One number of every row, [n], on the model's device."""
        found = concatenated([context.workspace.load_some(shard, [name]) for shard in self.shards])[name]
        return found[self._order].to(context.device)

    @property
    def _order(self) -> Tensor:
        return torch.tensor(self.positions).argsort()


def piece_names(width: int) -> list[str]:
    """Of the parts of directions of ``width`` numbers."""
    return [f"z/{number}" for number in range(min(PIECES, width))]


@dataclass(frozen=True)
class DirectionsTask(Task):
    """The directions of a chunk, which the basis is fitted to, in pieces."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        whitening, subspaces = stored_whitening(context), stored_subspaces(context)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            return in_pieces(directions_of(context, whitening, subspaces, positions))

        return compute


def in_pieces(rows: Directions) -> Mapping[str, Tensor]:
    """As they are stored."""
    z, names = rows["z"], piece_names(rows["z"].shape[1])
    pieces = dict(zip(names, z.tensor_split(len(names), dim=1), strict=True))
    return {name: value for name, value in rows.items() if name != "z"} | pieces


def from_pieces(stored: Mapping[str, Tensor]) -> Directions:
    """What was stored by `in_pieces`."""
    names = [name for name in stored if name.startswith("z/")]
    rows = {name: value for name, value in stored.items() if name not in names}
    return rows | {"z": torch.cat([stored[name] for name in piece_names(len(names))], dim=1)}


@dataclass(frozen=True)
class ProductsTask(Task):
    """Products of the sample's unit rows, by the numbers of their blocks."""

    sample: JointSample

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        context.gradients.clear()
        rows = self.sample.unit_rows(context, piece_names(self.sample.width))
        return lambda numbers: {f"{PRODUCTS}/{number}": product_block(rows, number) for number in numbers}

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        return f"block {item} of the joint sample"


@dataclass(frozen=True)
class ColumnsTask(Task):
    """What the mixtures give of the sample's unit rows, by the numbers of their pieces."""

    sample: JointSample
    mixtures: str

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        mixtures = context.workspace.load(self.mixtures)[MIXTURES].to(context.device)

        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            names = piece_names(self.sample.width)
            columns = self.sample.unit_rows(context, [names[number] for number in numbers]).mT @ mixtures
            return {COLUMNS: columns, PRODUCTS: (columns.mT @ columns).double()}

        return compute

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        return f"piece {item} of the joint basis"


def fit_basis(context: RebuildContext) -> dict[str, Tensor]:
    """V, [D, K], of a sample, whose directions stay until the rows are projected."""
    sample = _sampled(context)
    mixtures = sample.stage(MIXTURES)
    if not context.workspace.has(mixtures):
        context.workspace.save(mixtures, {MIXTURES: _mixtures(context, sample)})
    pieces = range(len(piece_names(sample.width)))
    names = context.map(COLUMNS, ColumnsTask(sample, mixtures), chunked(sample.stage(COLUMNS), pieces, 1))
    with context.progress.step("joint basis"):
        columns = torch.cat([context.workspace.load_some(name, [COLUMNS])[COLUMNS] for name in names])
        products = context.total(names, [PRODUCTS])[PRODUCTS]
        return {"basis": orthonormal(columns.to(context.device), products)}


def discard_parts(context: RebuildContext) -> None:
    """Deletes what the basis was computed from, but for the sample."""
    for stage in (PRODUCTS, MIXTURES, COLUMNS):
        context.workspace.discard(stage)


def _sampled(context: RebuildContext) -> JointSample:
    """Of the whole training set, if the memory holds so many rows."""
    width = sum(subspace.size for subspace in stored_subspaces(context).values())
    count, total = sample_size(context, width), len(context.data)
    chosen = context.data.sample(count, context.settings.seed + 2) if count < total else row_order(context)
    chunks = chunked(f"{SAMPLE}-{count}" if count < total else WHOLE, chosen, context.batching.chunk)
    return JointSample(tuple(context.map("joint sample", DirectionsTask(), chunks)), tuple(chosen), width)


def _mixtures(context: RebuildContext, sample: JointSample) -> Tensor:
    """Of the sample's unit rows, [n, K]."""
    count, load = len(sample.positions), context.workspace.load
    # The last block takes longest, so that it begins first.
    last_first = reversed(chunked(sample.stage(PRODUCTS), range(blocks_of(count)), 1).items())
    names = sorted(context.map(PRODUCTS, ProductsTask(sample), dict(last_first)))
    with context.progress.step("mixtures"):
        norms, scales = sample.column(context, "energy").sqrt(), sample.column(context, "scale")
        products = joined((block.to(norms.device) for name in names for block in load(name).values()), norms)
        size = min(context.settings.embedding_size or DEFAULT_SIZE, count, sample.width)
        return mixtures_of(products, norms, scales, size, context.settings.seed)
