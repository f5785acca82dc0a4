"""EK-FAC curvature: covariances, eigenbases, eigenvalues, the layers' subspaces, the joint basis, the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from proponent.attribution.capture import CaptureSession
from proponent.attribution.curvature.ekfac import LambdaAccumulator
from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.curvature.fisher import Accumulator, fisher_gradients
from proponent.attribution.curvature.kfac import CovarianceAccumulator, eigenbases
from proponent.attribution.groups import own_curvature
from proponent.attribution.joint import SecondStage, damped_gram, joint_basis, second_stage
from proponent.attribution.layers import num_parameters
from proponent.attribution.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.tucker import MomentAccumulator, fit_subspaces
from proponent.attribution.whitening import Whitening, make_whitening, squared_norms, whiten
from proponent.classifier import Classifier
from proponent.rebuild.rows_stage import concatenated, finished_rows, scaled_gradients, shard_ranges
from proponent.rebuild.stages import Stages
from proponent.rebuild.training_set import Batch

DEFAULT_SIZE = 768
DEFAULT_DAMPING = 0.1
MOMENT_EXAMPLES = 4096


def rebuild_ekfac(stages: Stages) -> tuple[SubspaceEmbedding, list[str]]:
    """Runs all stages; returns the embedding and the names of the row shards."""
    settings = stages.classifier.spec.curvature
    factors = fit_factors(stages)
    whitening = make_whitening(
        factors, damping_of(stages.classifier), relative=settings.relative, device=stages.classifier.device
    )
    subspaces = _subspaces(stages, whitening)
    basis = _basis(stages, whitening, subspaces)
    stage = _project(stages, whitening, subspaces, basis)
    joint = (basis.double() @ stage.root).float()
    embedding = SubspaceEmbedding(stages.layers, subspaces, joint, settings.kind)
    return embedding, _finish(stages, stage)


def damping_of(classifier: Classifier) -> float:
    """The damping that a spec asks for, or the default."""
    damping = classifier.spec.curvature.damping
    return DEFAULT_DAMPING if damping is None else float(damping)


def fit_factors(stages: Stages) -> dict[str, LayerFactors]:
    """Damping-free factors from a sample of the training set."""
    settings = stages.classifier.spec.curvature
    positions = stages.data.sample(settings.fit_examples, settings.seed)
    covariances = CovarianceAccumulator(stages.layers, stages.classifier.device)
    stages.fold("covariance", covariances, positions, _fisher_update(stages, covariances))
    if not stages.workspace.has("bases"):
        [bases] = [
            eigenbases(covariances.state(), stages.layers) for _ in stages.progress.track("eigenbases", [0], 1)
        ]
        stages.workspace.save("bases", _flat(bases))
    bases = _nested(stages.workspace.load("bases"), stages)
    if settings.kind == "kfac":
        return bases
    eigenvalues = LambdaAccumulator(bases)
    stages.fold("eigenvalues", eigenvalues, positions, _fisher_update(stages, eigenvalues))
    return eigenvalues.factors()


def _fisher_update(stages: Stages, accumulator: Accumulator) -> Callable[[Batch], None]:
    settings, loss = stages.classifier.spec.curvature, stages.classifier.loss

    def update(batch: Batch) -> None:
        with CaptureSession(stages.classifier.model, stages.layers) as session:
            outputs = session.forward(batch.inputs)
            passes = fisher_gradients(
                session,
                loss,
                outputs,
                batch.labels,
                batch.keys,
                kind=settings.fisher,
                seed=settings.seed,
                draws=settings.draws,
            )
            accumulator.update(passes, len(batch.labels))

    return update


def _flat(bases: dict[str, LayerFactors]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value for name, layer in bases.items() for part, value in vars(layer).items()}


def _nested(tensors: dict[str, Tensor], stages: Stages) -> dict[str, LayerFactors]:
    device = stages.classifier.device
    parts = ("q_out", "q_in", "eigenvalues")
    return {name: LayerFactors(*(tensors[f"{part}/{name}"].to(device) for part in parts)) for name in stages.layers}


def _subspaces(stages: Stages, whitening: Whitening) -> dict[str, LayerSubspace]:
    settings = stages.classifier.spec.curvature
    moments = MomentAccumulator(whitening)
    positions = stages.data.sample(min(settings.fit_examples, MOMENT_EXAMPLES), settings.seed + 1)

    def update(batch: Batch) -> None:
        _, gradients = scaled_gradients(stages.classifier, stages.layers, batch)
        moments.update(whiten(whitening, gradients))

    stages.fold("directions", moments, positions, update)
    return fit_subspaces(moments, whitening, settings.subspace_size)


def _basis(stages: Stages, whitening: Whitening, subspaces: dict[str, LayerSubspace]) -> Tensor:
    """V, [D, K], from a sample whose projections fit a quarter of the memory."""
    if not stages.workspace.has("basis"):
        settings = stages.classifier.spec.curvature
        width = sum(subspace.size for subspace in subspaces.values())
        count = max(1, min(settings.fit_examples, stages.memory // 4 // (3 * 4 * width)))
        positions = stages.data.sample(count, settings.seed + 2)
        steps = -(-len(positions) // stages.batch_size)
        batches = stages.progress.track("joint basis", stages.data.batches(stages.batch_size, positions), steps)
        rows = concatenated([_projected(stages, whitening, subspaces, batch) for batch in batches])
        size = settings.embedding_size or DEFAULT_SIZE
        basis = joint_basis(rows["z"], rows["norms"], rows["scales"], size, settings.seed)
        stages.workspace.save("basis", {"basis": basis})
    return stages.workspace.load("basis")["basis"].to(stages.classifier.device)


def _projected(
    stages: Stages, whitening: Whitening, subspaces: dict[str, LayerSubspace], batch: Batch
) -> dict[str, Tensor]:
    scaled, gradients = scaled_gradients(stages.classifier, stages.layers, batch)
    z = torch.cat([subspace.project(gradients[name]) for name, subspace in subspaces.items()], dim=1)
    norms = squared_norms(whiten(whitening, gradients)).sqrt()
    return {"z": z, "norms": norms, "scales": scaled.scale}


def _project(stages: Stages, whitening: Whitening, subspaces: dict[str, LayerSubspace], basis: Tensor) -> SecondStage:
    """The pass over all rows, shard by shard, and the second stage that it gives."""
    shards = shard_ranges(len(stages.data))
    open_shards = [name for name in shards if not stages.workspace.has(f"y-{name}")]
    done = len(shards) - len(open_shards)
    for name in stages.progress.track("project", open_shards, len(shards), done):
        batches = stages.data.batches(stages.batch_size, shards[name])
        parts = [_joint_coordinates(stages, whitening, subspaces, basis, batch) for batch in batches]
        stages.workspace.save(f"y-{name}", concatenated(parts))
    moment, outside = _moments(stages, shards)
    gram = damped_gram(subspaces, basis).cpu()
    settings = stages.classifier.spec.curvature
    found = second_stage(moment, outside, gram, num_parameters(stages.layers), settings.second_damping)
    device = stages.classifier.device
    return SecondStage(found.root.to(device), found.inverse.to(device), found.gram.to(device), found.residual)


def _joint_coordinates(
    stages: Stages, whitening: Whitening, subspaces: dict[str, LayerSubspace], basis: Tensor, batch: Batch
) -> dict[str, Tensor]:
    scaled, gradients = scaled_gradients(stages.classifier, stages.layers, batch)
    whitened = whiten(whitening, gradients)
    damped = {name: value * whitening[name].damped.rsqrt() for name, value in whitened.items()}
    return {
        "y": torch.cat([s.project(gradients[name]) for name, s in subspaces.items()], dim=1) @ basis,
        "crossed": torch.cat([s.project_damped(gradients[name]) for name, s in subspaces.items()], dim=1) @ basis,
        "energy": squared_norms(whitened),
        "damped_energy": squared_norms(damped),
        "scale": scaled.scale,
        "directed": scaled.directed,
    }


def _moments(stages: Stages, shards: Iterable[str]) -> tuple[Tensor, float]:
    """M, [K, K] float64, and the mean energy outside V, each row weighted as a Gauss-Newton matrix would.

    A gradient g of a well-fitted example is (1 - p) times a direction, so that g g^T weighs it by (1 - p)^2 and
    a few misfits rule the mean. The Gauss-Newton matrix weighs the same direction by p (1 - p), about (1 - p):
    that is g g^T divided by the size of the output gradient.
    """
    moment: Tensor | float = 0.0
    outside = 0.0
    for name in shards:
        shard = stages.workspace.load(f"y-{name}")
        y, scale = shard["y"].double(), shard["scale"]
        moment = moment + (y * scale[:, None]).mT @ y
        outside += float((scale * (shard["energy"] - y.square().sum(dim=1))).sum())
    assert isinstance(moment, Tensor)
    return moment / len(stages.data), max(outside, 0.0) / len(stages.data)


def _finish(stages: Stages, stage: SecondStage) -> list[str]:
    """The finished row shards from the projected ones."""
    shards = list(shard_ranges(len(stages.data)))
    open_shards = [name for name in shards if not stages.workspace.has(name)]
    for name in stages.progress.track("embed", open_shards, len(shards), len(shards) - len(open_shards)):
        shard = {key: value.to(stage.root.device) for key, value in stages.workspace.load(f"y-{name}").items()}
        rows = stage.rows(shard["y"], shard["crossed"], shard["energy"], shard["damped_energy"])
        own = own_curvature(stages.classifier.loss, shard["scale"])
        stages.workspace.save(name, finished_rows(rows, shard["scale"], shard["directed"], own))
    return shards
