"""The audit's checks that retrain or solve: each returns plain metrics, and a bounded number of points to draw."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.agreement import pearson, roc_auc, spearman, top_overlap
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.solvers import cg
from proponent.audit.datamodel import AUDIT, GroundTruth, ground_truth, recipe_digest
from proponent.audit.intervals import Statistic, auc_interval, two_way_interval
from proponent.audit.label_noise import flipped_positions, with_label_noise
from proponent.audit.reliability import reliability
from proponent.audit.retraining import Retraining, retrained_losses
from proponent.audit.scoring import AuditContext, influence_matrix
from proponent.index.bundle import CATALOG
from proponent.index.catalog import Catalog
from proponent.index.store import Store
from proponent.index.tensor_file import save_tensors
from proponent.inspection.objective import Objective
from proponent.options import Measure
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import Train, trained_model
from proponent.rebuild.rows_stage import scaled_gradients

TOP = 10
ENOUGH_SUBSETS = 32
MOST_POINTS = 400
"""Points of a plot that are kept, of each check."""
_DRAWN = ("per_query", "points", "recovery")


class FewSubsetsWarning(UserWarning):
    """A linear datamodeling score from so few retrained models says little."""


@dataclass(frozen=True)
class AuditOptions:
    """How much an audit does; a number of 0 leaves a check out.

    Attributes:
        queries: Held-out queries of each check.
        lds_subsets: Half-subsets to retrain on.
        seeds: Trainings of each half-subset.
        leave_one_out: Training examples to remove, one at a time.
        label_noise: Share of labels to flip before a retraining.
        solver_queries: Queries to solve for by conjugate gradients.
        solver_damping: Added to the objective's own curvature (which holds weight_decay).
        directory: Where finished retrainings are kept.
        jobs: Processes that retrain, on this machine.
        train: Runs the retrainings elsewhere.
    """

    directory: Path
    queries: int = 100
    lds_subsets: int = 0
    seeds: int = 2
    leave_one_out: int = 0
    label_noise: float = 0.0
    solver_queries: int = 0
    solver_damping: float = 0.0
    jobs: int = 1
    train: Train | None = None


def full_audit(context: AuditContext, options: AuditOptions, progress: StageProgress) -> dict[str, object]:
    """Every check that is asked for, by name.

    What each says, all plain numbers and lists of at most ``MOST_POINTS`` numbers:

    - ``distinct_in_top_10``: {measure: how many different examples fill the top ten lists}.
    - ``lds``: ``mean``, ``interval_95`` [low, high], ``subsets``, ``queries``, ``seeds``, ``reliability`` and
      ``ceiling`` (see ``Reliability``; None of one seed), and ``per_query``: the score of each query, ascending.
    - ``leave_one_out``: ``removals``, ``queries``, ``correlation``, ``slope`` (of real on predicted, through the
      origin), their ``..._interval_95``, and ``points``: ``predicted`` and ``real`` changes of loss, pair by pair.
    - ``label_noise``: ``flipped``, ``auc``, ``interval_95``, ``trainings``, and ``recovery``: share of the training
      set ``inspected`` by descending self-influence, share of the flipped labels ``found`` by then.
    - ``solver``: ``queries``, ``curvature``, ``iterations``, ``converged``, ``spearman`` and both overlaps at 10.

    The manifest's ``tuning`` (see ``Tuning.metrics``) is the sweep of dampings and K.
    """
    metrics: dict[str, object] = {"distinct_in_top_10": distinct(context, options.queries)}
    if options.lds_subsets:
        metrics["lds"] = lds(context, options, progress)
    if options.leave_one_out:
        metrics["leave_one_out"] = leave_one_out(context, options, progress)
    if options.label_noise > 0:
        metrics["label_noise"] = label_noise(context, options, progress)
    if options.solver_queries:
        metrics["solver"] = solver(context, options, progress)
    return metrics


def without_points(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics without what is kept for plots."""
    return {check: {k: v for k, v in found.items() if k not in _DRAWN} for check, found in metrics.items()}


def distinct(context: AuditContext, queries: int) -> dict[str, int]:
    """How many different examples fill the top ten proponents of the queries, by measure."""
    positions = list(range(min(queries, len(context.held_out))))
    top = min(TOP, len(context.data))
    found = {m.value: influence_matrix(context, positions, m).topk(top, dim=1).indices for m in Measure}
    return {name: len(set(indices.flatten().tolist())) for name, indices in found.items()}


def lds(context: AuditContext, options: AuditOptions, progress: StageProgress) -> dict[str, object]:
    """The linear datamodeling score with a 95 % interval over queries and retrained models.

    After a tuning its queries are left out where there are others; halves and training seeds are others anyway.
    """
    if options.lds_subsets < ENOUGH_SUBSETS:
        warnings.warn(
            f"{options.lds_subsets} subsets give a wide interval: use at least {ENOUGH_SUBSETS}",
            FewSubsetsWarning,
            stacklevel=2,
        )
    truth = ground_truth(
        context.explainer.classifier.spec,
        options.directory / "retrained",
        context.data,
        context.held_out,
        purpose=AUDIT,
        subsets=options.lds_subsets,
        queries=max(1, min(options.queries, len(context.held_out) - _tuned_queries(context))),
        seeds=options.seeds,
        jobs=options.jobs,
        train=options.train,
        progress=progress,
    )
    predicted = influence_matrix(context, truth.positions) @ truth.subsets.double().mT
    return {
        **_with_interval(_mean_spearman, predicted, -truth.losses.mT, "mean"),
        "subsets": options.lds_subsets,
        "queries": len(truth.positions),
        "seeds": options.seeds,
        **_reliability(truth),
        "per_query": _thinned(spearman(predicted, -truth.losses.mT).sort().values).tolist(),
    }


def _reliability(truth: GroundTruth) -> dict[str, float | None]:
    found = reliability(truth.runs)
    return {"reliability": found.halves if found else None, "ceiling": found.ceiling if found else None}


def _thinned(values: Tensor) -> Tensor:
    """At most ``MOST_POINTS`` of the values along the first dimension, evenly spaced, both ends among them."""
    if len(values) <= MOST_POINTS:
        return values
    return values[torch.linspace(0, len(values) - 1, MOST_POINTS, dtype=torch.float64).round().long()]


def _tuned_queries(context: AuditContext) -> int:
    tuning = context.explainer.manifest.audit.get("tuning", {})
    return int(tuning.get("queries", 0))


def _mean_spearman(left: Tensor, right: Tensor) -> Tensor:
    return spearman(left, right).mean()


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    return pearson(left.flatten(), right.flatten())


def _slope(real: Tensor, predicted: Tensor) -> Tensor:
    return (real * predicted).sum() / predicted.square().sum()


def _with_interval(statistic: Statistic, left: Tensor, right: Tensor, name: str) -> dict[str, object]:
    correlation = statistic is not _slope
    interval = two_way_interval(statistic, left, right, correlation=correlation)
    key = "interval_95" if name == "mean" else f"{name}_interval_95"
    return {name: float(statistic(left, right)), key: list(interval)}


def leave_one_out(context: AuditContext, options: AuditOptions, progress: StageProgress) -> dict[str, object]:
    """Real change of loss when one example is removed, against I / N; convex models only make sense here.

    All trainings share one seed: what is compared is a difference of two of them. Intervals are over queries and
    removals.
    """
    spec = context.explainer.classifier.spec
    positions = list(range(min(8, options.queries, len(context.held_out))))
    scores = influence_matrix(context, positions)
    removed = _mixed(scores, options.leave_one_out)
    masks = torch.ones(len(removed) + 1, len(context.data), dtype=torch.bool)
    masks[torch.arange(1, len(masks)), removed] = False
    digest = recipe_digest(spec, context.data, context.held_out, [*positions, -1, *removed.tolist()])
    job = Retraining(spec, (0,) * len(masks), tuple(positions), options.directory / "leave-one-out" / digest)
    losses = retrained_losses(job, masks, progress, options.jobs, options.train)
    real, predicted = (losses[1:] - losses[0]).mT, scores[:, removed] / len(context.data)
    return {
        "removals": len(removed),
        "queries": len(positions),
        **_with_interval(_correlation, real, predicted, "correlation"),
        **_with_interval(_slope, real, predicted, "slope"),
        "points": {"predicted": _thinned(predicted.flatten()).tolist(), "real": _thinned(real.flatten()).tolist()},
    }


def _mixed(scores: Tensor, count: int) -> Tensor:
    """Half of the removals have the largest mean influence, the others are drawn: sizes of every kind."""
    strongest = scores.abs().mean(dim=0).argsort(descending=True)
    others = strongest[count // 2 :]
    drawn = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(8))]
    return torch.cat([strongest[: count // 2], drawn])[:count].sort().values


def label_noise(context: AuditContext, options: AuditOptions, progress: StageProgress) -> dict[str, object]:
    """Flips labels, retrains, rebuilds, and asks whether self-influence finds the flipped ones (AUC).

    The interval is that of other examples under the one model trained: another training is not in it.
    """
    spec = context.explainer.classifier.spec
    noisy = with_label_noise(spec, options.label_noise, seed=9)
    with tempfile.TemporaryDirectory(prefix="proponent-audit-") as work:
        weights = Path(work) / "noisy.safetensors"
        with progress.step("retrain on flipped labels"):
            save_tensors(trained_model(noisy, None, 0).state_dict(), weights)
        noisy = noisy.model_copy(update={"weights": str(weights), "expected_accuracy": 0.0})
        bundle = rebuild(noisy, Store(Path(work) / "store"), RebuildOptions(quiet=True))
        entries = list(Catalog.open(bundle / CATALOG))
    flipped = torch.zeros(len(entries), dtype=torch.bool)
    flipped[flipped_positions(len(entries), options.label_noise, seed=9)] = True
    influence = torch.tensor([entry.self_influence for entry in entries], dtype=torch.float64)
    interval = list(auc_interval(roc_auc, influence, flipped))
    return {
        "flipped": int(flipped.sum()),
        "auc": roc_auc(influence, flipped),
        "interval_95": interval,
        "trainings": 1,
        "recovery": recovery(influence, flipped),
    }


def recovery(influence: Tensor, flipped: Tensor) -> dict[str, list[float]]:
    """What reading the examples by descending self-influence [N] finds of the flipped labels [N] bool."""
    found = flipped[influence.argsort(descending=True, stable=True)].double().cumsum(dim=0) / flipped.sum()
    inspected = torch.arange(len(found) + 1, dtype=torch.float64) / len(found)
    curve = torch.cat([found.new_zeros(1), found])
    return {"inspected": _thinned(inspected).tolist(), "found": _thinned(curve).tolist()}


def solver(context: AuditContext, options: AuditOptions, progress: StageProgress) -> dict[str, object]:
    """Agreement with conjugate gradients on the objective's own curvature: Hessian, or Gauss-Newton if deep."""
    classifier = context.explainer.classifier
    layers = classifier.find_layers()
    objective = Objective(classifier, layers, context.data)
    positions = list(range(min(options.solver_queries, len(context.held_out))))
    top = min(TOP, len(context.data))
    scaled, gradients = scaled_gradients(classifier, layers, context.held_out.batch(positions))
    right = flat_gradients(gradients).double().mT.to(next(classifier.model.parameters()))
    with progress.step("solve"):
        solution, report = cg(
            objective.product(), right, damping=options.solver_damping, tol=1e-4, max_iterations=200
        )
    reference = objective.products_with_gradients(solution) * scaled.scale[:, None]
    ours = influence_matrix(context, positions)
    return {
        "queries": len(positions),
        "curvature": objective.curvature,
        "iterations": report.iterations,
        "converged": bool(report.converged),
        "spearman": float(spearman(ours, reference).mean()),
        "proponents_overlap_at_10": float(top_overlap(ours, reference, top).mean()),
        "opponents_overlap_at_10": float(top_overlap(-ours, -reference, top).mean()),
    }
