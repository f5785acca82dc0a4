"""``--damping auto``: both dampings and K by the linear datamodeling score on held-out queries.

Damping matters more than anything else about the curvature, and no rule of thumb finds it. So models are
retrained on random halves once, and every setting of the grid is scored against them. Factors are free of
damping and fitted once; each damping of the first stage costs one pass over the training set, each damping of
the second stage only a K x K problem.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from proponent.attribution.agreement import spearman
from proponent.audit.datamodel import TUNING, GroundTruth, ground_truth
from proponent.audit.intervals import two_way_interval
from proponent.classifier import load_classifier
from proponent.errors import SpecError
from proponent.rebuild.batching import batching_for
from proponent.rebuild.bundle_writer import rebuild_key
from proponent.rebuild.compression import Compression, compress, rows_at
from proponent.rebuild.context import Executor, InProcess, RebuildContext
from proponent.rebuild.coverage import covered
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.joint_sample import DEFAULT_SIZE
from proponent.rebuild.kept_examples import SHARE
from proponent.rebuild.memory import DEFAULT_MEMORY, default_memory
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.reading_stage import Examples, read_all
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import ModelSpec

DAMPINGS = (1.0, 10.0, 100.0, 1000.0)
SECOND_DAMPINGS = (0.1, 0.3, 1.0, 3.0)
SIZES = (256, 512, DEFAULT_SIZE)
TOLERANCE = 0.98
"""The smallest K whose score is at least this share of the best is taken."""
_TIE_DRAWS = 200


@dataclass(frozen=True)
class Trial:
    """One setting and its mean score over the queries.

    Attributes:
        is_tied: Whether the 95 % interval of its difference from the best holds zero: other queries and retrained
            models might have preferred it.
    """

    damping: float
    second_damping: float
    embedding_size: int
    lds: float
    is_tied: bool = False


@dataclass(frozen=True)
class Tuning:
    """What was tried and what was chosen, and why; an audit afterwards uses other queries, halves and seeds."""

    spec: ModelSpec
    trials: tuple[Trial, ...]
    chosen: Trial
    reason: str
    subsets: int = 0
    queries: int = 0

    def metrics(self) -> dict[str, object]:
        """For the manifest."""
        trials = [vars(trial) for trial in self.trials]
        sizes = {"subsets": self.subsets, "queries": self.queries, "seeds": 1, "reliability": None, "ceiling": None}
        return {"tuning": {"trials": trials, "reason": self.reason, **sizes}}


def tune(
    spec: ModelSpec,
    directory: Path,
    *,
    subsets: int = 16,
    queries: int = 100,
    jobs: int = 1,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: StageProgress,
    executor: Executor | None = None,
    shards: str = "",
) -> Tuning:
    """Sweeps damping, second damping and K of a deep network's curvature.

    Raises:
        SpecError: The spec is of exact curvature, or lacks ``training`` or ``held_out``.
    """
    if spec.curvature.kind == "exact":
        raise SpecError("damping 'auto' is for ekfac and kfac: exact curvature takes weight_decay", field="damping")
    if spec.held_out is None or spec.training is None:
        raise SpecError("damping 'auto' needs the keys 'training' and 'held_out'", field="damping")
    executor = executor or InProcess()
    classifier = load_classifier(spec)
    data = TrainingSet.open(classifier, spec.dataset)
    data.keep((memory or DEFAULT_MEMORY) // SHARE)
    held_out = TrainingSet.open(classifier, spec.held_out, "held_out")
    coverage = covered(classifier, data)
    classifier, layers = coverage.classifier, coverage.layers
    device, work = executor.device(classifier.device), directory / "tuning" / "factors"
    examples = Examples(classifier, layers, data, memory or default_memory(device))
    key = rebuild_key(classifier, read_all(examples, work, shards, progress, executor))
    truth = ground_truth(
        spec,
        directory / "retrained",
        data,
        held_out,
        purpose=TUNING,
        subsets=subsets,
        queries=min(queries, max(1, len(held_out) // 2)),
        seeds=1,
        jobs=jobs,
        progress=progress,
        train=executor.train,
    )
    workspace = Workspace(work, key, shards)
    batching = batching_for(classifier, layers, data, memory, batch_size, device)
    gradients = batching.keeps()
    context = RebuildContext(
        classifier, layers, data, batching, workspace, progress, executor=executor, gradients=gradients
    )
    tried = list(itertools.chain.from_iterable(_sweep(context, held_out, truth)))
    return replace(choose(spec, with_ties(tried, truth.losses)), subsets=subsets, queries=len(truth.positions))


Tried = tuple[Trial, Tensor]
"""A setting, and the summed scores [Q, S] of the subsets that it gives."""


def _sweep(context: RebuildContext, held_out: TrainingSet, truth: GroundTruth) -> Iterator[list[Tried]]:
    factors = fit_factors(context)
    for damping in DAMPINGS:
        here = replace(context, workspace=context.workspace.beside(f"damping-{damping:g}"))
        compression, projected = compress(here, factors, damping)
        yield _trials(damping, *_coordinates(here, held_out, truth, compression, projected), truth)


def _coordinates(
    context: RebuildContext,
    held_out: TrainingSet,
    truth: GroundTruth,
    compression: Compression,
    projected: Sequence[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Y of the training rows [N, K] for unit output gradients, their scales [N], and y of the queries [Q, K]."""
    rows = rows_at(context, projected, range(len(context.data)), ["y", "scale"])
    queries = []
    for batch in context.batching.blocks(held_out, truth.positions):
        scaled, gradients = scaled_gradients(context.classifier, context.layers, batch)
        queries.append(compression.coordinates(gradients).double() * scaled.scale[:, None])
    return rows["y"].double(), rows["scale"], torch.cat(queries).cpu()


def _trials(damping: float, y: Tensor, scale: Tensor, queries: Tensor, truth: GroundTruth) -> list[Tried]:
    found = []
    moment = (y * scale[:, None]).mT @ y / len(y)
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    for size in [k for k in SIZES if k < len(values)] + [len(values)]:
        for second in SECOND_DAMPINGS:
            damped = values[:size] + second * values[:size].mean()
            left = queries @ vectors[:, :size] / damped
            scores = left @ (y @ vectors[:, :size] * scale[:, None]).mT
            summed = scores @ truth.subsets.double().mT
            lds = float(spearman(summed, -truth.losses.mT).mean())
            found.append((Trial(damping, second, size, lds), summed))
    return found


def with_ties(tried: Sequence[Tried], losses: Tensor) -> list[Trial]:
    """The settings, each with whether it ties with the best.

    Args:
        tried: Settings and their summed scores.
        losses: [S, Q] of the retrained models.
    """
    numbers = [(trial, summed) for trial, summed in tried if isfinite(trial.lds)]
    if not numbers:
        return [trial for trial, _ in tried]
    best = max(numbers, key=lambda pair: pair[0].lds)[1]
    return [replace(trial, is_tied=_ties(best, summed, -losses.mT)) for trial, summed in numbers]


def _ties(best: Tensor, other: Tensor, real: Tensor) -> bool:
    """Whether the difference, which is not negative, may be 0."""
    both = torch.stack([best, other], dim=-1)
    return two_way_interval(_difference, both, real, correlation=False, draws=_TIE_DRAWS)[0] <= 0


def _difference(both: Tensor, real: Tensor) -> Tensor:
    return (spearman(both[..., 0], real) - spearman(both[..., 1], real)).mean()


def _tied(trials: Sequence[Trial]) -> str:
    tied = [trial for trial in trials if trial.is_tied]
    dampings = sorted({trial.damping for trial in tied})
    return f"{len(tied)} settings tie with the best, of damping {', '.join(f'{each:g}' for each in dampings)}"


def choose(spec: ModelSpec, trials: Sequence[Trial]) -> Tuning:
    """The smallest K whose score is near the best of all that are numbers.

    Raises:
        SpecError: None is.
    """
    trials = [trial for trial in trials if isfinite(trial.lds)]
    if not trials:
        raise SpecError("no setting has a score: the retrained models' losses are all the same", field="training")
    best = max(trials, key=lambda trial: trial.lds)
    enough = [t for t in trials if t.lds >= best.lds - (1 - TOLERANCE) * abs(best.lds)]
    chosen = min(enough, key=lambda trial: (trial.embedding_size, -trial.lds))
    reason = (
        f"damping {chosen.damping:g}, second damping {chosen.second_damping:g}, K {chosen.embedding_size}: "
        f"LDS {chosen.lds:.4f}; the best of {len(trials)} settings has {best.lds:.4f}, and the smallest K within "
        f"{1 - TOLERANCE:.0%} of it was taken; {_tied(trials)} (95 % interval of the difference); how high a score "
        "could be is unknown, as each half was trained once"
    )
    update = {
        "damping": chosen.damping,
        "second_damping": chosen.second_damping,
        "embedding_size": chosen.embedding_size,
        "damping_relative": True,
    }
    curvature = spec.curvature.model_copy(update=update)
    return Tuning(spec.model_copy(update={"curvature": curvature}), tuple(trials), chosen, reason)
