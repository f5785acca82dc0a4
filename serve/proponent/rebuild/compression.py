"""From factors to rows at one damping: the layers' subspaces, the joint basis, the projected rows, M."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.embedding.joint import SecondStage, damped_gram, joint_basis, second_stage
from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.tucker import MomentAccumulator, fit_subspaces
from proponent.attribution.embedding.whitening import Whitening, make_whitening, whiten
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import num_parameters
from proponent.attribution.groups import own_curvature
from proponent.rebuild.memory import too_small
from proponent.rebuild.rows_stage import concatenated, finished_rows, scaled_gradients, shard_ranges
from proponent.rebuild.stages import Stages
from proponent.rebuild.training_set import Batch

DEFAULT_SIZE = 768
LEAST_SUBSPACE, MOST_SUBSPACE = 1 << 14, 1 << 15
MOMENT_EXAMPLES = 2048


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


def compress(stages: Stages, factors: Mapping[str, LayerFactors], damping: float) -> tuple[Compression, list[str]]:
    """Fits subspaces and joint basis at a damping, and projects all rows; returns also the names of their shards."""
    settings, device = stages.classifier.spec.curvature, stages.classifier.device
    weight_decay = stages.classifier.spec.weight_decay
    whitening = make_whitening(factors, damping, relative=settings.relative, device=device, weight_decay=weight_decay)
    subspaces = _stored_subspaces(stages, whitening)
    basis, sample = _basis(stages, whitening, subspaces)
    compression = Compression(whitening, subspaces, basis)
    return compression, _project_rows(stages, compression, sample)


def _stored_subspaces(stages: Stages, whitening: Whitening) -> dict[str, LayerSubspace]:
    """The subspaces, fitted once: what is stored after them holds for no other choice of eigenvectors."""
    if not stages.workspace.has("subspaces"):
        fitted = SubspaceEmbedding(stages.layers, _subspaces(stages, whitening), torch.empty(0, 0))
        stages.workspace.save("subspaces", fitted.tensors())
    stored = SubspaceEmbedding.from_tensors("", stages.workspace.load("subspaces"), stages.layers)
    return dict(stored.to(stages.classifier.device).subspaces)


def _subspaces(stages: Stages, whitening: Whitening) -> dict[str, LayerSubspace]:
    settings = stages.classifier.spec.curvature
    moments = MomentAccumulator(whitening, settings.seed)
    positions = stages.data.sample(min(settings.fit_examples, MOMENT_EXAMPLES), settings.seed + 1)

    def update(batch: Batch) -> None:
        _, gradients = scaled_gradients(stages.classifier, stages.layers, batch)
        moments.update(whitening, gradients, batch.keys)

    stages.fold("directions", moments, positions, update)
    [fitted] = [
        fit_subspaces(moments, whitening, settings.subspace_size or default_subspace(num_parameters(stages.layers)))
        for _ in stages.progress.track("subspaces", [None], 1)
    ]
    return fitted


def default_subspace(parameters: int) -> int:
    """D for P covered parameters: an eighth of them within bounds; networks with more need more for RelatIF."""
    return min(max(parameters // 8, LEAST_SUBSPACE), MOST_SUBSPACE)


def _basis(
    stages: Stages, whitening: Whitening, subspaces: Mapping[str, LayerSubspace]
) -> tuple[Tensor, Mapping[str, Tensor] | None]:
    """V, [D, K], from a sample that fits half of the memory; also its z where it is the whole training set."""
    sample = None
    if not stages.workspace.has("basis"):
        settings = stages.classifier.spec.curvature
        count = _sample_size(stages, sum(subspace.size for subspace in subspaces.values()))
        whole = count >= len(stages.data)
        # By shards, so that rows of a sample of all are what a resumed pass over them computes, bit by bit.
        chosen = (
            list(shard_ranges(len(stages.data)).values()) if whole else [stages.data.sample(count, settings.seed + 2)]
        )
        batches = itertools.chain.from_iterable(stages.batches(positions) for positions in chosen)
        parts = stages.progress.track("joint sample", batches, sum(stages.batching.count(len(c)) for c in chosen))
        sample = concatenated([_directions(stages, whitening, subspaces, batch) for batch in parts])
        size, norms = settings.embedding_size or DEFAULT_SIZE, sample["energy"].sqrt()
        for rows in stages.progress.track("joint basis", [sample["z"]], 1):
            basis = joint_basis(rows, norms, sample["scale"], size, settings.seed)
            stages.workspace.save("basis", {"basis": basis})
        sample = sample if whole else None
    return stages.workspace.load("basis")["basis"].to(stages.classifier.device), sample


def _sample_size(stages: Stages, width: int) -> int:
    """How many rows the joint basis is fitted on: z, a copy and as much again, and their products a few times.

    Raises:
        SpecError: The memory holds fewer rows than the basis is to have directions.
    """
    by_width, by_count = stages.memory // 4 // (4 * 4 * width), isqrt(stages.memory // 4 // (3 * 8))
    settings = stages.classifier.spec.curvature
    count = min(settings.fit_examples, by_width, by_count)
    wanted = min(settings.embedding_size or DEFAULT_SIZE, settings.fit_examples, len(stages.data), width)
    if count < wanted:
        needed = 4 * wanted * max(4 * 4 * width, 3 * 8 * wanted)
        raise too_small(stages.memory, needed, f"a joint basis of {wanted} out of {width:,} directions")
    return count


def _blocks(positions: Sequence[int], size: int) -> list[Sequence[int]]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _directions(
    stages: Stages,
    whitening: Whitening,
    subspaces: Mapping[str, LayerSubspace],
    batch: Batch,
) -> dict[str, Tensor]:
    """Z and R^T (Lambda + lambda)^-1 w C of all layers, ||w||^2 and w^T (Lambda + lambda)^-1 w of a batch."""
    scaled, gradients = scaled_gradients(stages.classifier, stages.layers, batch)
    z, crossed = [], []
    energy, damped_energy = torch.zeros_like(scaled.scale), torch.zeros_like(scaled.scale)
    for name, value in whiten(whitening, gradients):
        inside, weighted = subspaces[name].compress_all(value, whitening[name].root)
        z.append(inside)
        crossed.append(weighted)
        whole, damped = value.energies()
        energy += whole
        damped_energy += damped
    return {
        "z": torch.cat(z, dim=1),
        "crossed": torch.cat(crossed, dim=1),
        "energy": energy,
        "damped_energy": damped_energy,
        "scale": scaled.scale,
        "directed": scaled.directed,
    }


def _project_rows(stages: Stages, compression: Compression, sample: Mapping[str, Tensor] | None) -> list[str]:
    """The pass over all rows, shard by shard; a sample of all rows spares it most of the work."""
    shards = {f"y-{name}": positions for name, positions in shard_ranges(len(stages.data)).items()}
    open_shards = [name for name in shards if not stages.workspace.has(name)]
    done = len(shards) - len(open_shards)
    for name in stages.progress.track("project", open_shards, len(shards), done):
        positions = shards[name]
        if sample is not None:
            parts = [
                _onto_basis({key: value[part[0] : part[-1] + 1] for key, value in sample.items()}, compression.basis)
                for part in _blocks(positions, stages.batching.block)
            ]
        else:
            parts = [project_batch(stages, compression, batch) for batch in stages.batches(positions)]
        stages.workspace.save(name, concatenated(parts))
    return list(shards)


def project_batch(stages: Stages, compression: Compression, batch: Batch) -> dict[str, Tensor]:
    """Y = V^T z of a batch, and what the norms need."""
    return _onto_basis(_directions(stages, compression.whitening, compression.subspaces, batch), compression.basis)


def _onto_basis(rows: Mapping[str, Tensor], basis: Tensor) -> dict[str, Tensor]:
    """Y = V^T z and V^T (Lambda + lambda)^-1 w in place of what they are projected from."""
    columns = {key: value for key, value in rows.items() if key != "z"}
    return columns | {"y": rows["z"] @ basis, "crossed": rows["crossed"] @ basis}


def fit_second_stage(
    stages: Stages, compression: Compression, projected: Sequence[str], second_damping: float
) -> SecondStage:
    """The second stage from the projected rows."""
    moment, outside = moments(stages, projected)
    gram = damped_gram(compression.subspaces, compression.basis).cpu()
    stage = second_stage(moment, outside, gram, num_parameters(stages.layers), second_damping)
    device = stages.classifier.device
    return SecondStage(stage.root.to(device), stage.inverse.to(device), stage.gram.to(device), stage.residual)


def moments(stages: Stages, projected: Sequence[str]) -> tuple[Tensor, float]:
    """M, [K, K] float64, and the mean energy outside V, each row weighted as a Gauss-Newton matrix would.

    A gradient g of a well-fitted example is (1 - p) times a direction, so that g g^T weighs it by (1 - p)^2 and
    a few misfits rule the mean. The Gauss-Newton matrix weighs the same direction by p (1 - p), about (1 - p):
    that is g g^T divided by the size of the output gradient.
    """
    moment: Tensor | float = 0.0
    outside = 0.0
    for name in projected:
        shard = stages.workspace.load(name)
        y, scale = shard["y"].double(), shard["scale"]
        moment = moment + (y * scale[:, None]).mT @ y
        outside += float((scale * (shard["energy"] - y.square().sum(dim=1))).sum())
    assert isinstance(moment, Tensor)
    return moment / len(stages.data), max(outside, 0.0) / len(stages.data)


def finish_rows(stages: Stages, stage: SecondStage, projected: Sequence[str]) -> list[str]:
    """The finished row shards from the projected ones."""
    shards = list(shard_ranges(len(stages.data)))
    pairs = [(name, source) for name, source in zip(shards, projected, strict=True) if not stages.workspace.has(name)]
    for name, source in stages.progress.track("embed", pairs, len(shards), len(shards) - len(pairs)):
        shard = {key: value.to(stage.root.device) for key, value in stages.workspace.load(source).items()}
        rows = stage.rows(shard["y"], shard["crossed"], shard["energy"], shard["damped_energy"])
        own = own_curvature(stages.classifier.loss, shard["scale"])
        stages.workspace.save(name, finished_rows(rows, shard["scale"], shard["directed"], own))
    return shards
