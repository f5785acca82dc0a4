"""From projected rows to finished ones: M, the second stage, and the rows that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from proponent.attribution.embedding.joint import SecondStage, damped_gram, second_stage
from proponent.attribution.gradients.layers import num_parameters
from proponent.attribution.groups import own_curvature
from proponent.rebuild.compression import BASIS, rows_at, stored_compression
from proponent.rebuild.context import Compute, LayerTask, RebuildContext, Task
from proponent.rebuild.rows_stage import finished_rows

GRAM, SECOND_MOMENT, SECOND_STAGE = "gram", "second-moment", "second-stage"
ROW_COLUMNS = ("y", "crossed", "energy", "damped_energy", "scale", "directed")
"""Of a projected row, what a finished one is made of."""


def fit_second_stage(context: RebuildContext, projected: Sequence[str], second_damping: float) -> SecondStage:
    """The second stage from the projected rows."""

    def compute() -> dict[str, Tensor]:
        moment, outside = moments(context, projected)
        parts = context.parts(GRAM, GramTask(), range(len(context.layers)), moment.numel(), least=1)
        gram = context.total(parts, [GRAM])[GRAM].cpu()
        with context.progress.step("second stage"):
            fitted = second_stage(moment, outside, gram, num_parameters(context.layers), second_damping)
        return {**vars(fitted), "residual": torch.tensor(fitted.residual, dtype=torch.float64)}

    context.kept(SECOND_STAGE, SECOND_MOMENT, compute)
    context.workspace.discard(GRAM)
    return stored_second_stage(context)


def stored_second_stage(context: RebuildContext) -> SecondStage:
    """What was fitted, on the model's device."""
    stored = {name: value.to(context.device) for name, value in context.workspace.load(SECOND_STAGE).items()}
    return SecondStage(stored["root"], stored["inverse"], stored["gram"], float(stored["residual"]))


def moments(context: RebuildContext, projected: Sequence[str]) -> tuple[Tensor, float]:
    """M, [K, K] float64, and the mean energy outside V, each row weighted as a Gauss-Newton matrix would.

    A gradient g of a well-fitted example is (1 - p) times a direction, so that g g^T weighs it by (1 - p)^2 and
    a few misfits rule the mean. The Gauss-Newton matrix weighs the same direction by p (1 - p), about (1 - p):
    that is g g^T divided by the size of the output gradient.
    """
    numbers = context.workspace.load_some(BASIS, ["basis"])["basis"].shape[1] ** 2
    task = SecondMomentTask(tuple(projected))
    parts = context.parts(SECOND_MOMENT, task, range(len(projected)), numbers, least=1)
    sums, count = context.total(parts, ["moment", "outside"]), len(context.data)
    return sums["moment"].cpu() / count, max(float(sums["outside"]), 0.0) / count


@dataclass(frozen=True)
class GramTask(LayerTask):
    """V^T (Lambda + lambda)^(-1) V, summed over some layers."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        found = stored_compression(context)
        sizes = [subspace.size for subspace in found.subspaces.values()]
        parts = dict(zip(found.subspaces, torch.split(found.basis, sizes), strict=True))

        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            names = self.names(context, numbers)
            some = {name: found.subspaces[name] for name in names}
            return {GRAM: damped_gram(some, torch.cat([parts[name] for name in names]))}

        return compute


@dataclass(frozen=True)
class SecondMomentTask(Task):
    """Sums over the rows of some shards, by their numbers."""

    shards: tuple[str, ...]

    @override
    def called(self, context: RebuildContext, item: int) -> str:
        return f"rows {self.shards[item]}"

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            moment: Tensor | float = 0.0
            outside = torch.zeros((), dtype=torch.float64)
            for number in numbers:
                shard = context.workspace.load_some(self.shards[number], ["y", "scale", "energy"])
                y, scale = shard["y"].double(), shard["scale"]
                moment = moment + (y * scale[:, None]).mT @ y
                outside += (scale * (shard["energy"] - y.square().sum(dim=1))).sum()
            assert isinstance(moment, Tensor)
            return {"moment": moment, "outside": outside}

        return compute


def finish_rows(context: RebuildContext, projected: Sequence[str]) -> list[str]:
    """The finished row shards from the projected ones."""
    return context.map("embed", FinishTask(tuple(projected)), context.shards())


@dataclass(frozen=True)
class FinishTask(Task):
    """Finished rows of a shard."""

    shards: tuple[str, ...]

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        stage = stored_second_stage(context)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            source = rows_at(context, self.shards, positions, ROW_COLUMNS)
            shard = {key: value.to(context.device) for key, value in source.items()}
            rows = stage.rows(shard["y"], shard["crossed"], shard["energy"], shard["damped_energy"])
            own = own_curvature(context.classifier.loss, shard["scale"])
            return finished_rows(rows, shard["scale"], shard["directed"], own)

        return compute
