"""EK-FAC curvature: covariances, eigenbases, eigenvalues, the layers' subspaces, the joint basis, the rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from proponent.attribution.curvature.ekfac import LambdaAccumulator
from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.curvature.kfac import CovarianceAccumulator, eigenbases
from proponent.attribution.embedding.joint import SecondStage
from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.whitening import Whitening
from proponent.attribution.gradients.layers import flatten_parameters, num_parameters, split_flat
from proponent.classifier import Classifier
from proponent.errors import CurvatureError
from proponent.rebuild.block_gradients import add_covariances, add_eigenvalues
from proponent.rebuild.compression import BASIS, Compression, compress
from proponent.rebuild.context import Compute, LayerTask, RebuildContext, Task
from proponent.rebuild.directions import stored_subspaces
from proponent.rebuild.joint_sample import factor_sample
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.second_stage import finish_rows, fit_second_stage, stored_second_stage
from proponent.rebuild.stationarity import find_ratio, folded

COVARIANCE, EIGENBASES, BASES, EIGENVALUES = "covariance", "eigenbases", "bases", "eigenvalues"
DEFAULT_DAMPING = 100.0
"""In units of each layer's mean eigenvalue; measured best with the second stage (docs/performance.md)."""
LEAST_DAMPING = 1e-6
"""In the same units: less is lost in the rounding of single precision."""


class SmallDampingWarning(UserWarning):
    """The damping is too small for the precision of the computation."""


def rebuild_ekfac(context: RebuildContext) -> tuple[SubspaceEmbedding, Compression, list[str]]:
    """Runs all stages; returns the embedding, what it is made of, and the names of the row shards."""
    settings = context.settings
    _warn_of_damping(context.classifier)
    factors = fit_factors(context)
    _check_curvature(context, factors)
    compression, projected = compress(context, factors, damping_of(context.classifier))
    find_ratio(context, projected, folded(context, _rotated_parameters(context, compression.whitening)))
    stage = fit_second_stage(context, projected, settings.second_damping)
    embedding = _embedding(context, compression.subspaces, compression.basis, stage)
    return embedding, compression, finish_rows(context, projected)


def stored_embedding(context: RebuildContext) -> SubspaceEmbedding:
    """The embedding from the finished stages, on the model's device."""
    basis = context.workspace.load(BASIS)["basis"].to(context.device)
    return _embedding(context, stored_subspaces(context), basis, stored_second_stage(context))


def _embedding(
    context: RebuildContext, subspaces: Mapping[str, LayerSubspace], basis: Tensor, stage: SecondStage
) -> SubspaceEmbedding:
    joint = basis @ stage.root.to(basis)  # the basis is rounded to single precision itself
    return SubspaceEmbedding(context.layers, subspaces, joint, context.settings.kind)


def _check_curvature(context: RebuildContext, factors: Mapping[str, LayerFactors]) -> None:
    """Refuses curvature of nothing where there are gradients: their products would all be zero."""
    settings = context.settings
    absolute = 0.0 if settings.relative else damping_of(context.classifier)
    some = absolute > 0 or any(bool((layer.eigenvalues > 0).any()) for layer in factors.values())
    if not some and _has_gradients(context):
        raise CurvatureError(
            f"the curvature of every layer is zero (loss {context.classifier.spec.loss!r}, fisher "
            f"{settings.fisher!r}), though there are gradients: set curvature.fisher to true or empirical, or an "
            "absolute damping",
            field="curvature.fisher",
        )


def _has_gradients(context: RebuildContext) -> bool:
    """Whether any training example has one."""
    return any(
        bool((gradient.sum_and_squares()[1].sqrt() * scaled.scale).any())
        for scaled, gradients in (
            scaled_gradients(context.classifier, context.layers, batch) for batch in context.batches()
        )
        for gradient in gradients.values()
    )


def _rotated_parameters(context: RebuildContext, whitening: Whitening) -> Iterator[Tensor]:
    """Theta in the eigenbases, layer by layer, [G, o, i] float64."""
    named = {name: value.detach() for name, value in context.classifier.model.named_parameters()}
    dense = split_flat(flatten_parameters(named, context.layers).double(), context.layers)
    for name, layer in whitening.items():
        yield layer.q_out.double().mT @ dense[name] @ layer.q_in.double()


def _warn_of_damping(classifier: Classifier) -> None:
    damping = damping_of(classifier)
    if classifier.spec.curvature.relative and damping < LEAST_DAMPING:
        warnings.warn(
            f"damping {damping:g} of each layer's mean eigenvalue is less than single precision resolves: below "
            f"{LEAST_DAMPING:g} theta-RelatIF may be off by tens of percent, and at 0 every measure",
            SmallDampingWarning,
            stacklevel=2,
        )


def damping_of(classifier: Classifier) -> float:
    """The damping that a spec asks for, or the default."""
    damping = classifier.spec.curvature.damping
    return DEFAULT_DAMPING if damping is None else float(damping)


def fit_factors(context: RebuildContext) -> dict[str, LayerFactors]:
    """Damping-free factors from a sample of the training set."""
    settings = context.settings
    positions = factor_sample(context)
    context.kept(BASES, COVARIANCE, lambda: _eigenbases(context, positions))
    context.workspace.discard(EIGENBASES)
    bases = _bases(context)
    if settings.kind == "kfac":
        return bases
    accumulator = LambdaAccumulator(bases)
    accumulator.load(context.kept(EIGENVALUES, EIGENVALUES, lambda: _eigenvalues(context, positions)))
    return accumulator.factors()


@dataclass(frozen=True)
class CovarianceTask(Task):
    """Sums of A and S over a chunk."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            accumulator = CovarianceAccumulator(context.layers, context.device)
            for batch in context.batches(positions):
                add_covariances(context, accumulator, batch)
            return accumulator.state()

        return compute


@dataclass(frozen=True)
class BasisTask(LayerTask):
    """Factors of a layer without the eigenvalues of EK-FAC, from the parts of all layers' sums."""

    parts: tuple[str, ...]

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            some = {name: context.layers[name] for name in self.names(context, numbers)}
            names = CovarianceAccumulator(some, "meta").state()
            return _flat(eigenbases(context.total(self.parts, names), some))

        return compute


@dataclass(frozen=True)
class EigenvalueTask(Task):
    """Sums of the squared coordinates over a chunk."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        bases = _bases(context)

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            accumulator = LambdaAccumulator(bases)
            for batch in context.batches(positions):
                add_eigenvalues(context, accumulator, batch)
            return accumulator.state()

        return compute


def _eigenbases(context: RebuildContext, positions: Sequence[int]) -> Mapping[str, Tensor]:
    sides = (layer.groups * (layer.inputs**2 + layer.out**2) for layer in context.layers.values())
    parts = context.parts(COVARIANCE, CovarianceTask(), positions, sum(sides))
    return context.map_layers(EIGENBASES, BasisTask(tuple(parts)))


def _eigenvalues(context: RebuildContext, positions: Sequence[int]) -> Mapping[str, Tensor]:
    parts = context.parts(EIGENVALUES, EigenvalueTask(), positions, num_parameters(context.layers))
    return context.total(parts, LambdaAccumulator(_bases(context)).state())


def _bases(context: RebuildContext) -> dict[str, LayerFactors]:
    return _nested(context.workspace.load(BASES), context)


def _flat(bases: dict[str, LayerFactors]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value for name, layer in bases.items() for part, value in vars(layer).items()}


def _nested(tensors: dict[str, Tensor], context: RebuildContext) -> dict[str, LayerFactors]:
    parts = ("q_out", "q_in", "eigenvalues")
    return {
        name: LayerFactors(*(tensors[f"{part}/{name}"].to(context.device) for part in parts))
        for name in context.layers
    }
