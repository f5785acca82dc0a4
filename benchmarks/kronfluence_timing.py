"""Times of proponent and of Kronfluence on one model: making ready to answer, and answering one query."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from kronfluence_adapter import HEURISTIC_DAMPING, Damping, Kronfluence, examples
from torch.utils.data import Subset

from proponent.classifier import load_classifier
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.presets import train_preset
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import TrainingSet
from proponent.results import ExplainOptions
from proponent.spec import ModelSpec, load_spec

T = TypeVar("T")

EMBEDDING_STAGES = ("covariance", "eigenbases", "eigenvalues", "directions", "joint basis", "project", "embed")
"""Factors and rows; a rebuild also reads and hashes the data, surveys the model and writes the bundle."""
BATCH = 128
DAMPING = Damping(HEURISTIC_DAMPING, relative=True)


class StageTimes(StageProgress):
    """Records how long each stage takes instead of showing it."""

    seconds: dict[str, float]

    def __init__(self, *, quiet: bool = True) -> None:
        super().__init__(quiet=True)

    def track(self, stage: str, steps: Iterable[T], total: int, done: int = 0) -> Iterator[T]:
        """The steps, timed."""
        start = time.perf_counter()
        yield from steps
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def trained(preset: str, seed: int, work: Path, epochs: int | None = None) -> ModelSpec:
    """The preset's model, trained once."""
    directory = work / f"{preset}-{seed}"
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, seed=seed, epochs=epochs)
    return load_spec(directory)


def fit(preset: str, seed: int, work: Path, repeats: int) -> dict[str, Any]:
    """Rebuild without audit, against all factors and one pairwise pass, in turn."""
    spec = trained(preset, seed, work)
    classifier = load_classifier(spec)
    train = examples(TrainingSet.open(classifier, spec.dataset))
    held_out = TrainingSet.open(classifier, spec.held_out, "held_out")
    queries = {count: examples(held_out, list(range(count))) for count in (1, 200)}
    runs: list[dict[str, float]] = []
    stages: list[dict[str, float]] = []
    for _ in range(repeats):
        with TemporaryDirectory() as scratch:
            times, by_stage = {}, _rebuild_stages(spec, Path(scratch))
            times["embedding"] = sum(by_stage[name] for name in EMBEDDING_STAGES)
            times["rebuild"] = sum(by_stage.values())
            peer = Kronfluence(spec, train, Path(scratch) / "peer", BATCH)
            times["factors"] = seconds(peer.fit)
            for count, asked in queries.items():
                times[f"pass_{count}"] = seconds(lambda peer=peer, asked=asked: peer.pairwise(asked, DAMPING))
        runs.append(times)
        stages.append(by_stage)
        print(f"  {preset} { ({name: round(value, 1) for name, value in times.items()}) }", flush=True)
    row: dict[str, Any] = {"preset": preset, "rows": len(train), "repeats": repeats, "runs_s": runs}
    row["median_s"] = medians(runs)
    row["stages_s"] = medians(stages)
    for side in ("embedding", "rebuild"):
        for count in queries:
            ratios = [run[side] / (run["factors"] + run[f"pass_{count}"]) for run in runs]
            row[f"{side}_over_fit_and_pass_{count}"] = statistics.median(ratios)
    return row


def _rebuild_stages(spec: ModelSpec, work: Path) -> dict[str, float]:
    StageTimes.seconds = {}
    with patch("proponent.rebuild.pipeline.StageProgress", StageTimes):
        rebuild(spec, Store(work / "store"), RebuildOptions(quiet=True))
    return StageTimes.seconds


def query(
    preset: str, seed: int, work: Path, epochs: int | None, peer_rows: list[int], repeats: int
) -> list[dict[str, Any]]:
    """One input explained in process, against one query's pairwise scores with factors given."""
    spec = trained(preset, seed, work, epochs)
    store = Store(work / "store")
    if not store.root.is_dir() or spec.name not in store.models():
        rebuild(spec, store, RebuildOptions())
    explainer = Explainer.load(store.current(spec.name))
    classifier = load_classifier(spec)
    data = TrainingSet.open(classifier, spec.dataset)
    held_out = TrainingSet.open(classifier, spec.held_out, "held_out")
    train, asked = examples(data), examples(held_out, list(range(64)))
    rows = []
    for count in peer_rows:
        few = Subset(train, range(count))
        with TemporaryDirectory() as scratch:
            peer = Kronfluence(spec, Subset(train, range(min(count, 4000))), Path(scratch), BATCH)
            peer.fit()
            own_ms, peer_s = [], []
            for number in range(repeats):
                own_ms += _explain_ms(explainer, [value for value, _ in asked])
                one = Subset(asked, [number])
                peer_s.append(seconds(lambda peer=peer, one=one, few=few: peer.pairwise(one, DAMPING, few)))
        rows.append(_query_row(preset, len(train), count, own_ms, peer_s))
        rows[-1]["stages_ms"] = _stages_ms(explainer, [value for value, _ in asked])
        print(f"  {rows[-1]}", flush=True)
    return rows


def _query_row(preset: str, total: int, measured: int, own_ms: list[float], peer_s: list[float]) -> dict[str, Any]:
    own, peer = statistics.median(own_ms), statistics.median(peer_s)
    scaled = peer * total / measured
    return {
        "preset": preset,
        "rows": total,
        "proponent_ms": own,
        "proponent_fastest_ms": min(own_ms),
        "kronfluence_rows_measured": measured,
        "kronfluence_s_measured": peer_s,
        "kronfluence_s": scaled,
        "extrapolated_linearly": measured != total,
        "ratio": scaled / (own / 1e3),
    }


def _explain_ms(explainer: Explainer, inputs: list[torch.Tensor]) -> list[float]:
    """Milliseconds of each input on its own: all three measures, ten examples at both ends."""
    option = ExplainOptions()
    return [1e3 * seconds(lambda value=value: explainer.explain([value], [option])) for value in inputs]


def _stages_ms(explainer: Explainer, inputs: list[torch.Tensor]) -> dict[str, float]:
    times = []
    for value in inputs:
        [answer] = explainer.explain([value], [ExplainOptions()])
        if isinstance(answer, Exception):
            raise answer
        times.append({name: 1e3 * taken for name, taken in answer.timings.items()})
    return medians(times)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each entry."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
