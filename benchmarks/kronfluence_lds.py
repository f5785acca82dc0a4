"""Linear datamodeling scores of proponent's rows and of Kronfluence's pairwise scores, over the same dampings."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kronfluence_adapter import DEFAULT_DAMPING, HEURISTIC_DAMPING, Damping, Kronfluence, examples
from torch import Tensor
from truth import open_truth

from proponent.attribution.agreement import linear_datamodeling
from proponent.attribution.gradients.layers import find_layers
from proponent.classifier import Classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.compression import compress
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace

DAMPINGS = (1.0, 10.0, 100.0, 1000.0)
SECOND_DAMPINGS = (0.1, 0.3, 1.0, 3.0)
ABSOLUTE_DAMPINGS = 6
SIZE = 768
TUNE, TEST = slice(0, 100), slice(100, 200)
BATCH = 128

Setting = dict[str, float]


def compare(preset: str, seed: int, work: Path, jobs: int, limit: int | None = None) -> dict[str, Any]:
    """One model: both sides tuned on the first queries and scored on the others. A killed run goes on.

    With a ``limit`` it is trained on so many examples alone.
    """
    truth = open_truth(preset, seed, work, limit)
    data, held_out, queries, masks = truth.data, truth.held_out, truth.queries, truth.masks
    settings = truth.of.spec.curvature.model_copy(update={"embedding_size": SIZE})
    of = replace(truth.of, spec=truth.of.spec.model_copy(update={"curvature": settings}))
    (losses,) = truth.runs(1, jobs)
    scratch = truth.directory / "scratch"
    theirs = _scored(peer_scores(of, data, held_out, queries, scratch), masks, losses)
    ours = _scored(_own(of, data, held_out, queries, scratch), masks, losses)
    shutil.rmtree(scratch)
    row: dict[str, Any] = {"preset": preset, "seed": seed, "proponent": _best(ours), "kronfluence": _best(theirs)}
    own, peer = _chosen(ours)[1], _chosen(theirs)[1]
    row |= {"ratio": float(own[TEST].mean() / peer[TEST].mean()), "interval_95": interval([own[TEST]], [peer[TEST]])}
    row["kronfluence_defaults"] = {
        name: _figures(*next(pair for pair in theirs if pair[0] == setting))
        for name, setting in (
            ("damping_factor 1e-8", {"absolute": DEFAULT_DAMPING}),
            ("damping_factor None", {"relative": HEURISTIC_DAMPING}),
        )
    }
    row["trials"] = {name: [_figures(*pair) for pair in side] for name, side in (("own", ours), ("peer", theirs))}
    row["per_query"] = {"own": own[TEST].tolist(), "peer": peer[TEST].tolist()}
    return row


def interval(ours: list[Tensor], theirs: list[Tensor], draws: int = 10_000) -> list[float]:
    """95 % bootstrap interval of the ratio of means over the queries alone, which several models share.

    Both sides are scored against the same retrained models, whose own sample it does not speak of.
    """
    own, peer = torch.stack(ours).mean(dim=0), torch.stack(theirs).mean(dim=0)
    picks = torch.randint(len(own), (draws, len(own)), generator=torch.Generator().manual_seed(0))
    ratios = own[picks].mean(dim=1) / peer[picks].mean(dim=1)
    return ratios.quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()


def peer_scores(
    of: Classifier, data: TrainingSet, held_out: TrainingSet, queries: list[int], work: Path
) -> Iterator[tuple[Setting, Tensor]]:
    """Relative dampings (proponent's grid and its own heuristic), its default, and absolute ones of the same span."""
    peer = Kronfluence(of.spec, examples(data), work / "peer", BATCH)
    peer.fit()
    asked = examples(held_out, queries)
    means = peer.mean_eigenvalues()
    low, high = math.log10(HEURISTIC_DAMPING * min(means)), math.log10(max(DAMPINGS) * max(means))
    absolute = [DEFAULT_DAMPING, *torch.logspace(low, high, ABSOLUTE_DAMPINGS, dtype=torch.float64).tolist()]
    for value in (HEURISTIC_DAMPING, *DAMPINGS):
        yield {"relative": value}, peer.pairwise(asked, Damping(value, relative=True), name=f"relative-{value:g}")
    for value in absolute:
        yield {"absolute": value}, peer.pairwise(asked, Damping(value, relative=False), name=f"absolute-{value:g}")


def _own(
    of: Classifier, data: TrainingSet, held_out: TrainingSet, queries: list[int], work: Path
) -> Iterator[tuple[Setting, Tensor]]:
    """Every pair of dampings, as a bundle's rows would score."""
    context = RebuildContext(
        of,
        find_layers(of.model),
        data,
        Batching.of(BATCH),
        Workspace(work / "own", "factors"),
        StageProgress(quiet=True),
    )
    factors = fit_factors(context)
    scaled, gradients = scaled_gradients(of, context.layers, held_out.batch(queries))
    for damping in DAMPINGS:
        here = replace(context, workspace=Workspace(work / f"own-{damping:g}", "rows"))
        compression, projected = compress(here, factors, damping)
        shards = [here.workspace.load_some(name, ["y", "scale"]) for name in projected]
        y, scale = torch.cat([s["y"] for s in shards]).double(), torch.cat([s["scale"] for s in shards])
        asked = compression.coordinates(gradients).double() * scaled.scale[:, None]
        moment = (y * scale[:, None]).mT @ y / len(y)
        for second in SECOND_DAMPINGS:
            damped = moment + second * moment.trace() / len(moment) * torch.eye(len(moment), dtype=torch.float64)
            solved = torch.linalg.solve(damped, asked.mT).mT
            yield {"relative": damping, "second": second}, solved @ (y * scale[:, None]).mT


def _scored(trials: Iterable[tuple[Setting, Tensor]], masks: Tensor, losses: Tensor) -> list[tuple[Setting, Tensor]]:
    found = []
    for setting, scores in trials:
        found.append((setting, linear_datamodeling(scores, masks, losses)))
        print(f"  {_figures(*found[-1])}", flush=True)
    return found


def _chosen(trials: list[tuple[Setting, Tensor]]) -> tuple[Setting, Tensor]:
    """The setting that is best on the tuning queries."""
    return max(trials, key=lambda trial: float(trial[1][TUNE].mean()))


def _best(trials: list[tuple[Setting, Tensor]]) -> dict[str, Any]:
    return _figures(*_chosen(trials))


def _figures(setting: Setting, lds: Tensor) -> dict[str, Any]:
    return {"setting": setting, "tuning": float(lds[TUNE].mean()), "test": float(lds[TEST].mean())}
