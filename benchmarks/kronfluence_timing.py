"""Times of proponent and of Kronfluence on one model: making ready to answer, and answering one query.

Each time is taken twice, as wall time and as CPU time of the process: on a shared machine the second is the steadier,
and with one thread both are the same on an idle one.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from kronfluence_adapter import HEURISTIC_DAMPING, Damping, Kronfluence, examples
from timing import NOTHING, Taken, medians, rebuild_stages, taken
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from proponent.classifier import load_classifier
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation
from proponent.spec import ModelSpec, load_spec
from proponent.training.train_preset import train_preset

OTHER_STAGES = ("read data", "survey", "audit", "write bundle", "explain samples")
"""What a rebuild does beside factors and rows: it reads and hashes the data, surveys the model, writes the bundle and
explains the samples that it keeps."""
BATCH = 128
FITTED_EXAMPLES = 2000
DAMPING = Damping(HEURISTIC_DAMPING, relative=True)


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
    runs, stages = [], []
    for _ in range(repeats):
        with TemporaryDirectory() as scratch:
            by_stage = rebuild_stages(spec, Path(scratch))
            others = sum((by_stage[name] for name in OTHER_STAGES), NOTHING)
            embedding = by_stage["rebuild"] - others
            times = {"embedding": embedding, "rebuild": by_stage.pop("rebuild")}
            peer = Kronfluence(spec, train, Path(scratch) / "peer", BATCH)
            times["factors"] = taken(peer.fit)
            for count, asked in queries.items():
                times[f"pass_{count}"] = taken(lambda peer=peer, asked=asked: peer.pairwise(asked, DAMPING))
        runs.append(times)
        stages.append(by_stage)
        print(f"  {preset} { ({name: round(value.cpu, 1) for name, value in times.items()}) } CPU s", flush=True)
    return _fit_row(preset, len(train), runs, stages)


def _fit_row(preset: str, rows: int, runs: list[dict[str, Taken]], stages: list[dict[str, Taken]]) -> dict[str, Any]:
    row: dict[str, Any] = {"preset": preset, "rows": rows, "repeats": len(runs)}
    for clock in ("wall", "cpu"):
        plain = [{name: getattr(value, clock) for name, value in run.items()} for run in runs]
        row[f"{clock}_s"] = medians(plain)
        row[f"{clock}_ratio"] = {
            f"{side}/(factors + pass_{count})": statistics.median(
                run[side] / (run["factors"] + run[f"pass_{count}"]) for run in plain
            )
            for side in ("embedding", "rebuild")
            for count in (1, 200)
        }
    row["stages_cpu_s"] = medians([{name: value.cpu for name, value in run.items()} for run in stages])
    row["runs"] = [{name: vars(value) for name, value in run.items()} for run in runs]
    return row


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
    inputs = [value for value, _ in asked]
    peer_of = _fitted(spec, train)
    rows = []
    for count in peer_rows:
        few, own, theirs = Subset(train, range(count)), [], []
        for number in range(repeats):
            own += [taken(lambda value=value: _explained(explainer, value)) for value in inputs]
            one = Subset(asked, [number])
            theirs.append(taken(lambda one=one, few=few: peer_of.pairwise(one, DAMPING, few)))
        rows.append(_query_row(preset, len(train), count, own, theirs))
        rows[-1]["stages_ms"] = medians(
            [{name: 1e3 * value for name, value in _explained(explainer, each).timings.items()} for each in inputs]
        )
        print(f"  {rows[-1]}", flush=True)
    return rows


def _fitted(spec: ModelSpec, train: TensorDataset) -> Kronfluence:
    """Factors of a part of the examples: the time of a pass does not depend on which."""
    peer = Kronfluence(spec, Subset(train, range(min(len(train), FITTED_EXAMPLES))), Path(mkdtemp()), BATCH)
    peer.fit()
    return peer


def _query_row(preset: str, total: int, measured: int, own: list[Taken], theirs: list[Taken]) -> dict[str, Any]:
    row: dict[str, Any] = {"preset": preset, "rows": total, "kronfluence_rows_measured": measured}
    row["extrapolated_linearly"] = measured != total
    for clock in ("wall", "cpu"):
        mine = statistics.median(getattr(each, clock) for each in own)
        other = statistics.median(getattr(each, clock) for each in theirs) * total / measured
        row[clock] = {"proponent_ms": 1e3 * mine, "kronfluence_s": other, "ratio": other / mine}
    row["proponent_fastest_ms"] = 1e3 * min(each.wall for each in own)
    row["kronfluence_runs"] = [vars(each) for each in theirs]
    return row


def _explained(explainer: Explainer, value: Tensor) -> Explanation:
    """All three measures, ten examples at both ends of each."""
    [answer] = explainer.explain([value], [ExplainOptions()])
    if isinstance(answer, Exception):
        raise answer
    return answer
