"""Linear datamodeling scores of proponent's rows and of Kronfluence's pairwise scores, over the same dampings."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from kronfluence_adapter import DEFAULT_DAMPING, HEURISTIC_DAMPING, Damping, Kronfluence, examples
from ratios import Pair, compared
from safetensors.torch import load_file
from torch import Tensor
from truth import Truth

from proponent.rebuild.batching import Batching
from proponent.rebuild.compression import compress, rows_at
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.coverage import Coverage, UncoveredWarning, covered
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import save_finished
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.workspace import Workspace
from proponent.spec import DEFAULT_COVER

DAMPINGS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
SECOND_DAMPINGS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ABSOLUTE_DAMPINGS = 8
COVERS = {"default": DEFAULT_COVER, "embeddings": (*DEFAULT_COVER, "embedding")}
"""Which layers proponent's rows are of."""
SIZE = 768
TUNE, TEST = slice(0, 100), slice(100, 200)
BATCH = 128

Setting = dict[str, Any]
Trial = tuple[Setting, Tensor]
"""A setting, and the scores, their sums or what they are worth."""


@dataclass(frozen=True)
class Compared:
    """One model's row of results, and what several models' are made of: the queries that are not tuned on."""

    row: dict[str, Any]
    pair: Pair


def compare(truth: Truth, jobs: int, trainings: int = 1) -> Compared:
    """One model: both sides tuned on the first queries and scored on the others. A killed run goes on."""
    sums = {"own": own_sums(truth), "peer": peer_sums(truth)}
    runs = truth.runs(trainings, jobs)
    scored = {name: [(setting, truth.scored(each, runs)) for setting, each in side] for name, side in sums.items()}
    best = {name: max(range(len(side)), key=lambda place: _tuned(side[place])) for name, side in scored.items()}
    own, peer = (sums[name][best[name]][1] for name in ("own", "peer"))
    pair = Pair(own[TEST], peer[TEST], runs[:, :, TEST])
    row = {
        "preset": truth.of.spec.name,
        "seed": truth.seed,
        "proponent": _figures(*scored["own"][best["own"]]),
        "kronfluence": _figures(*scored["peer"][best["peer"]]),
        **compared([pair]),
        "trainings": trainings,
        **truth.repeats(trainings),
        "kronfluence_defaults": {
            name: _figures(*next(trial for trial in scored["peer"] if trial[0] == setting))
            for name, setting in (
                ("damping_factor 1e-8", {"absolute": DEFAULT_DAMPING}),
                ("damping_factor None", {"relative": HEURISTIC_DAMPING}),
            )
        },
        "trials": {name: [_figures(*trial) for trial in side] for name, side in scored.items()},
    }
    return Compared(row, pair)


def peer_sums(truth: Truth) -> list[Trial]:
    """Kronfluence's scores at each damping, summed over the truth's halves; kept beside the model."""
    scratch = truth.directory / "kronfluence"
    return _kept(truth, "kronfluence", lambda: _peer(truth, scratch), scratch)


def own_sums(truth: Truth) -> list[Trial]:
    """The same of proponent's at each pair of dampings."""
    scratch = truth.directory / "own"
    return _kept(truth, "proponent", lambda: _own(truth, scratch), scratch)


def _kept(truth: Truth, name: str, trials: Callable[[], Iterator[Trial]], scratch: Path) -> list[Trial]:
    file, some = truth.directory / f"{name}.safetensors", truth.directory / f"{name}-some.safetensors"
    if not file.exists():
        found = {}
        for setting, scores in trials():
            found[json.dumps(setting)] = truth.summed(scores)
            print(f"  {name} {setting}", flush=True)
            save_finished(found, some)
        some.rename(file)
        shutil.rmtree(scratch)
    return [(json.loads(setting), sums) for setting, sums in load_file(file).items()]


def _peer(truth: Truth, work: Path) -> Iterator[Trial]:
    """Relative dampings (proponent's grid and its own heuristic), its default, and absolute ones of the same span."""
    peer = Kronfluence(truth.of.spec, examples(truth.data), work, BATCH)
    peer.fit()
    asked = examples(truth.held_out, truth.queries)
    means = peer.mean_eigenvalues()
    low, high = math.log10(HEURISTIC_DAMPING * min(means)), math.log10(max(DAMPINGS) * max(means))
    absolute = [DEFAULT_DAMPING, *torch.logspace(low, high, ABSOLUTE_DAMPINGS, dtype=torch.float64).tolist()]
    for value in sorted({HEURISTIC_DAMPING, *DAMPINGS}):
        yield {"relative": value}, peer.pairwise(asked, Damping(value, relative=True), name=f"relative-{value:g}")
    for value in absolute:
        yield {"absolute": value}, peer.pairwise(asked, Damping(value, relative=False), name=f"absolute-{value:g}")


def _own(truth: Truth, work: Path) -> Iterator[Trial]:
    """Every pair of dampings, as a bundle's rows would score; with embeddings, too, where the model has some."""
    known = set[tuple[str, ...]]()
    for name, cover in COVERS.items():
        update = {"embedding_size": SIZE, "cover": cover}
        settings = truth.of.spec.curvature.model_copy(update=update)
        of = replace(truth.of, spec=truth.of.spec.model_copy(update={"curvature": settings}))
        with warnings.catch_warnings(action="ignore", category=UncoveredWarning):
            coverage = covered(of, truth.data)
        if tuple(coverage.layers) not in known:
            known.add(tuple(coverage.layers))
            for setting, scores in _of_layers(truth, coverage, work / name):
                yield {**setting, "cover": name}, scores


def _of_layers(truth: Truth, coverage: Coverage, work: Path) -> Iterator[Trial]:
    workspace = Workspace(work / "factors", "factors")
    of, quiet = coverage.classifier, StageProgress(quiet=True)
    context = RebuildContext(of, coverage.layers, truth.data, Batching.of(BATCH), workspace, quiet)
    factors = fit_factors(context)
    scaled, gradients = scaled_gradients(of, context.layers, truth.held_out.batch(truth.queries))
    for damping in DAMPINGS:
        here = replace(context, workspace=Workspace(work / f"{damping:g}", "rows"))
        compression, projected = compress(here, factors, damping)
        rows = rows_at(here, projected, range(len(here.data)), ["y", "scale"])
        y, scale = (rows[name].double().to(of.device) for name in ("y", "scale"))
        asked = compression.coordinates(gradients).double() * scaled.scale[:, None]
        moment = (y * scale[:, None]).mT @ y / len(y)
        for second in SECOND_DAMPINGS:
            damped = moment + second * moment.trace() / len(moment) * torch.eye(len(moment)).to(moment)
            solved = torch.linalg.solve(damped, asked.mT).mT
            yield {"relative": damping, "second": second}, solved @ (y * scale[:, None]).mT


def _tuned(trial: Trial) -> float:
    return float(trial[1][TUNE].mean())


def _figures(setting: Setting, lds: Tensor) -> dict[str, Any]:
    return {"setting": setting, "tuning": float(lds[TUNE].mean()), "test": float(lds[TEST].mean())}
