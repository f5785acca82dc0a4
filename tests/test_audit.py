"""The audit: its figures against other libraries, against one another, and resumed; damping chosen by it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from google.protobuf.json_format import MessageToJson
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.special import stdtrit
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

import stores
import tiny
from proponent.attribution.agreement import linear_datamodeling, pearson, roc_auc, spearman, top_overlap
from proponent.audit import datamodel, retraining
from proponent.audit.checks import MOST_POINTS, AuditOptions, FewSubsetsWarning, full_audit, recovery
from proponent.audit.datamodel import AUDIT, TUNING, GroundTruth, Purpose, ground_truth
from proponent.audit.intervals import student_quantile, two_way_interval
from proponent.audit.reliability import reliability
from proponent.audit.retraining import half_subsets, retrained_losses
from proponent.audit.scoring import influence_matrix, open_bundle
from proponent.audit.tuning import DAMPINGS, SECOND_DAMPINGS, SIZES, TOLERANCE, Trial, choose, with_ties
from proponent.errors import CorruptBundleError, SpecError
from proponent.explainer import Explainer
from proponent.gateway.deployment import BundleHandle
from proponent.gateway.lookups import describe_model
from proponent.index.audit_file import AUDITS, keep_audit, known_audit
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions
from proponent.rebuild.progress import StageProgress
from proponent.rebuilding import audited_rebuild
from proponent.spec import load_spec

pytestmark = [
    pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
    pytest.mark.filterwarnings("ignore::proponent.audit.checks.FewSubsetsWarning"),
]
QUIET = RebuildOptions(quiet=True)
TRAINING = {"factory": "proponent.training:fit", "kwargs": {"optimizer": "lbfgs"}}
SUBSETS = 12


def project(root: Path, **keys: Any) -> Path:
    """A tiny project that can be retrained, its own examples held out."""
    path = tiny.project(root, training=TRAINING, expected_accuracy=0, **keys)
    name = yaml.safe_load(path.read_text())["dataset"]["factory"]
    return tiny.change(path, held_out={"factory": name})


@pytest.fixture(scope="module")
def convex(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Logistic regression with noisy pictures, audited within its rebuild."""
    root = tmp_path_factory.mktemp("convex")
    store = Store(root / "store")
    audited_rebuild(load_spec(project(root / "project", count=120, weight_decay=0.05)), store, QUIET)
    return store


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small network, its damping chosen by ``auto``."""
    root = tmp_path_factory.mktemp("tuned")
    curvature = {"kind": "ekfac", "damping": "auto", "embedding_size": 40}
    path = project(root / "project", model="grouped", count=90, curvature=curvature, weight_decay=0.02)
    store = Store(root / "store")
    done = stores.run("rebuild", path, "--subsets", str(SUBSETS), "--quiet", store=store)
    assert done.returncode == 0, done.stderr
    (root / "printed").write_text(done.stdout, encoding="utf-8")
    return store


def audit(store: Store, **options: Any) -> dict[str, Any]:
    directory = store.directory(stores.MODEL) / AUDITS
    with StageProgress(quiet=True) as progress:
        return full_audit(open_bundle(store.current(stores.MODEL)), AuditOptions(directory, **options), progress)


def no_retraining(*arguments: object) -> None:
    raise AssertionError("a finished retraining was repeated")


def test_the_quantile_of_an_interval_is_scipys() -> None:
    for freedom in (*range(1, 60), 100, 10_000):
        assert student_quantile(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=2e-3), freedom


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**31), st.booleans())
def test_correlations_are_scipys(length: int, seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, 3, length, generator=generator, dtype=torch.float64)
    left = (2 * left).round() if ties else left
    for ours, theirs in ((spearman, spearmanr), (pearson, pearsonr)):
        for row, (a, b) in enumerate(zip(left, right, strict=True)):
            if a.unique().numel() > 1:
                assert float(ours(left, right)[row]) == pytest.approx(theirs(a, b).statistic, abs=1e-9)
            else:
                assert float(ours(left, right)[row]) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**31), st.booleans())
def test_auc_is_scikit_learns(length: int, seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(length, generator=generator, dtype=torch.float64)
    scores = scores.round() if ties else scores
    positive = torch.arange(length) % 3 == 0
    assert roc_auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_overlap_counts_shared_leaders() -> None:
    left = torch.tensor([[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    right = torch.tensor([[4.0, 1.0, 5.0, 0.0], [0.0, 0.0, 1.0, 2.0]])
    assert top_overlap(left, right, 2).tolist() == [0.5, 1.0]


def test_the_datamodeling_score_ranks_sums_against_losses() -> None:
    scores = torch.tensor([[1.0, 2.0, -1.0]])
    subsets = torch.tensor([[True, False, True], [True, True, False], [False, False, True]])
    losses = torch.tensor([[0.5], [0.1], [0.9]])  # sums are 0, 3, -1
    assert linear_datamodeling(scores, subsets, losses).tolist() == pytest.approx([1.0])
    assert linear_datamodeling(-scores, subsets, losses).tolist() == pytest.approx([-1.0])


def test_a_convex_model_passes_every_check(convex: Store) -> None:
    found = audit(convex, queries=30, lds_subsets=SUBSETS, leave_one_out=12, label_noise=0.1, solver_queries=4)
    assert found["lds"]["mean"] > 0.9
    assert found["lds"]["interval_95"][0] <= found["lds"]["mean"] <= found["lds"]["interval_95"][1]
    assert found["leave_one_out"]["correlation"] > 0.99
    assert 0.8 < found["leave_one_out"]["slope"] < 1.3
    assert (found["lds"]["subsets"], found["lds"]["queries"], found["lds"]["seeds"]) == (SUBSETS, 30, 2)
    assert found["lds"]["reliability"] > 0.99 and found["lds"]["ceiling"] > 0.99  # one minimum, whatever the seed
    low, high = found["leave_one_out"]["correlation_interval_95"]
    assert -1 <= low <= found["leave_one_out"]["correlation"] <= high <= 1
    low, high = found["leave_one_out"]["slope_interval_95"]
    assert low <= found["leave_one_out"]["slope"] <= high
    noise = found["label_noise"]
    assert (noise["flipped"], noise["trainings"], noise["auc"]) == (12, 1, pytest.approx(1, abs=0.15))
    assert noise["interval_95"][0] <= noise["auc"] <= noise["interval_95"][1]
    check_points(found)
    solver = found["solver"]
    assert solver["curvature"] == "hessian" and solver["converged"] and solver["spearman"] > 0.999
    assert solver["proponents_overlap_at_10"] > 0.95 and solver["opponents_overlap_at_10"] > 0.95


def check_points(found: dict[str, Any]) -> None:
    """What is kept to be drawn says the same as the figures; eight queries of the twelve removals are 96 pairs."""
    per_query = found["lds"]["per_query"]
    assert sorted(per_query) == per_query and np.mean(per_query) == pytest.approx(found["lds"]["mean"])
    pairs = [found["leave_one_out"]["points"][name] for name in ("predicted", "real")]
    assert [len(side) for side in pairs] == [96, 96]
    assert pearsonr(*pairs).statistic == pytest.approx(found["leave_one_out"]["correlation"])
    predicted, real = map(np.array, pairs)
    assert (real * predicted).sum() / (predicted**2).sum() == pytest.approx(found["leave_one_out"]["slope"])
    curve = found["label_noise"]["recovery"]
    below = found["label_noise"]["flipped"] / 120 / 2  # between the diagonal and the curve lies AUC - 1/2, but for
    area = np.trapezoid(curve["found"], curve["inspected"])  # the flipped examples' own share of the axis
    assert area == pytest.approx(found["label_noise"]["auc"] * (1 - 2 * below) + below, abs=1e-9)


def test_the_points_of_a_plot_are_bounded() -> None:
    influence = torch.arange(5000, dtype=torch.float64)
    curve = recovery(influence, influence >= 4500)
    assert len(curve["found"]) == len(curve["inspected"]) == MOST_POINTS
    assert (curve["inspected"][0], curve["found"][0]) == (0, 0) and (curve["inspected"][-1], curve["found"][-1]) == (
        1,
        1,
    )
    assert next(i for i, found in zip(curve["inspected"], curve["found"], strict=True) if found == 1) < 0.11


def test_an_audit_adds_to_what_is_known_of_a_bundle(convex: Store, tmp_path: Path) -> None:
    bundle = Store(shutil.copytree(convex.root, tmp_path / "store")).current(stores.MODEL)
    shutil.rmtree(bundle.parent.parent / AUDITS, ignore_errors=True)
    manifest = read_manifest(bundle)
    assert known_audit(bundle, manifest) == manifest.audit
    keep_audit(bundle, {"lds": {"mean": 0.4, "interval_95": [float("-inf"), float("nan")]}})
    keep_audit(bundle, {"solver": {"queries": 2}})
    added = {"lds": {"mean": 0.4, "interval_95": [None, None]}, "solver": {"queries": 2}}
    assert known_audit(bundle, manifest) == {**manifest.audit, **added}
    opened = BundleHandle.open(bundle)
    assert json.loads(MessageToJson(describe_model(opened).audit)) == known_audit(bundle, manifest)
    opened.catalog.close()
    (bundle.parent.parent / AUDITS / f"{bundle.name}.json").write_text("[1]")
    with pytest.raises(CorruptBundleError, match=r"audits/.*\.json: holds a list.*run proponent audit again"):
        known_audit(bundle, manifest)


def test_finished_retrainings_are_not_repeated(
    convex: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = audit(convex, queries=30, lds_subsets=SUBSETS)["lds"]
    monkeypatch.setattr(retraining, "in_processes", lambda task, work, jobs: [no_retraining() for _ in work])
    assert audit(convex, queries=30, lds_subsets=SUBSETS)["lds"] == first
    copy = Store(shutil.copytree(convex.root, tmp_path / "store"))
    next((copy.directory(stores.MODEL) / AUDITS / "retrained").rglob("model-00003.safetensors")).unlink()
    with pytest.raises(AssertionError, match="repeated"):
        audit(copy, queries=30, lds_subsets=SUBSETS)
    monkeypatch.undo()
    assert audit(copy, queries=30, lds_subsets=SUBSETS)["lds"]["mean"] == pytest.approx(first["mean"])


def test_the_quick_audit_is_in_the_manifest_and_in_every_answer(convex: Store) -> None:
    explainer = Explainer.load(convex.current(stores.MODEL))
    figures = read_manifest(convex.current(stores.MODEL)).audit
    assert figures["reference"] == "dense inverse, float64"
    assert figures["queries_from"] == "held-out set" and figures["queries"] == 32
    assert figures["spearman"] > 0.9999
    assert figures["proponents_overlap_at_10"] > 0.99 and figures["opponents_overlap_at_10"] > 0.99
    [answer] = explainer.explain([tiny.inputs(1)[0]], [ExplainOptions()])
    assert not isinstance(answer, Exception)
    assert answer.quality.audit == figures


@pytest.mark.parametrize(("layers", "expected"), [(None, 1.0), (["0"], None), (["4"], None)])
def test_the_share_of_the_gradient_that_is_covered(
    tmp_path: Path, layers: list[str] | None, expected: float | None
) -> None:
    """Layers 0 and 4 of the network; what they leave out is the cost of explaining them alone."""
    keys: dict[str, Any] = {"curvature": {"kind": "ekfac", "layers": layers}, "weight_decay": 0.02}
    spec = load_spec(project(tmp_path / "project", model="grouped", count=30, iterations=20, **keys))
    audited_rebuild(spec, Store(tmp_path / "store"), QUIET)
    explainer = Explainer.load(Store(tmp_path / "store").current(stores.MODEL))
    found = explainer.manifest.audit["covered_gradient_energy"]
    if expected is not None:
        assert found == pytest.approx(expected, rel=1e-5)
        return
    model, shares = explainer.classifier.model, []
    opened = open_bundle(Store(tmp_path / "store").current(stores.MODEL))
    for position in range(30):
        _, value, label = opened.held_out.item(position)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(value[None]), torch.tensor([label])).backward()
        squares = {name: float(p.grad.double().square().sum()) for name, p in model.named_parameters()}
        inside = sum(value for name, value in squares.items() if name.startswith(f"{layers[0]}."))
        shares.append(inside / sum(squares.values()))
    assert 0 < found < 1
    assert found == pytest.approx(sum(shares) / len(shares), rel=1e-3)


def test_the_overlap_of_lists_counts_different_examples(convex: Store) -> None:
    found = audit(convex, queries=20)["distinct_in_top_10"]
    opened = open_bundle(convex.current(stores.MODEL))
    lists = influence_matrix(opened, list(range(20))).topk(10, dim=1).indices.tolist()
    assert found["influence"] == len({row for rows in lists for row in rows})
    assert set(found) == {"influence", "theta-relatif", "l-relatif"}


def test_auto_chooses_the_smallest_k_near_the_best_score(tuned: Store) -> None:
    manifest = read_manifest(tuned.current(stores.MODEL))
    tuning = manifest.audit["tuning"]
    trials = tuning["trials"]
    assert len(trials) == len(DAMPINGS) * len(SECOND_DAMPINGS)  # K is below the smallest of SIZES
    assert manifest.embedding_size < min(SIZES)
    best = max(trial["lds"] for trial in trials)
    [chosen] = [
        trial
        for trial in trials
        if (trial["damping"], trial["second_damping"]) == (manifest.damping, manifest.settings["second_damping"])
    ]
    assert chosen["lds"] >= TOLERANCE * best
    assert f"damping {manifest.damping:g}" in tuning["reason"] and f"{best:.4f}" in tuning["reason"]


def test_auto_prints_what_it_chose_and_what_ties_with_it(tuned: Store) -> None:
    tuning = read_manifest(tuned.current(stores.MODEL)).audit["tuning"]
    tied = sum(trial["is_tied"] for trial in tuning["trials"])
    assert tied >= 1 and f"{tied} settings tie with the best, of damping " in tuning["reason"]
    assert tuning["reason"] in (tuned.root.parent / "printed").read_text(encoding="utf-8").splitlines()


def truth_of(store: Store, purpose: Purpose, queries: int) -> GroundTruth:
    opened = open_bundle(store.current(stores.MODEL))
    directory = store.directory(stores.MODEL) / AUDITS / "retrained"
    spec = opened.explainer.classifier.spec
    with StageProgress(quiet=True) as progress:
        return ground_truth(
            spec,
            directory,
            opened.data,
            opened.held_out,
            purpose=purpose,
            subsets=SUBSETS,
            queries=queries,
            seeds=1,
            jobs=1,
            progress=progress,
        )


def test_a_trial_scores_what_the_rows_of_its_bundle_score(tuned: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep computes scores without building a bundle; the audit computes them from the stored rows."""
    monkeypatch.setattr(retraining, "in_processes", lambda task, work, jobs: [no_retraining() for _ in work])
    manifest = read_manifest(tuned.current(stores.MODEL))
    tuning = manifest.audit["tuning"]
    assert (tuning["subsets"], tuning["queries"], tuning["seeds"]) == (SUBSETS, 45, 1)
    truth = truth_of(tuned, TUNING, 45)
    scores = influence_matrix(open_bundle(tuned.current(stores.MODEL)), truth.positions)
    measured = float(linear_datamodeling(scores, truth.subsets, truth.losses).mean())
    trial = next(
        trial
        for trial in tuning["trials"]
        if (trial["damping"], trial["second_damping"]) == (manifest.damping, manifest.settings["second_damping"])
    )
    assert measured == pytest.approx(trial["lds"], abs=0.01)
    assert measured > 0.2


def test_an_audit_after_tuning_uses_nothing_that_the_tuning_used(
    tuned: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = []

    def notice(job: retraining.Retraining, *arguments: Any) -> Tensor:
        jobs.append(job)
        return retrained_losses(job, *arguments)

    monkeypatch.setattr(datamodel, "retrained_losses", notice)
    before = truth_of(tuned, TUNING, 45)
    figures = audit(tuned, queries=100, lds_subsets=SUBSETS, seeds=2)["lds"]
    tuning, *audits = jobs
    assert (figures["queries"], figures["seeds"], len(audits)) == (45, 2, 2)
    seeds = [seed for job in jobs for seed in job.seeds]
    assert len(set(seeds)) == len(seeds) == 3 * SUBSETS
    assert not set(audits[0].queries) & set(tuning.queries)
    after = half_subsets(90, SUBSETS, AUDIT.subsets_seed)
    assert not any(bool((a == b).all()) for a in before.subsets for b in after)


def test_few_subsets_are_warned_of(convex: Store) -> None:
    with pytest.warns(FewSubsetsWarning, match=f"{SUBSETS} subsets give a wide interval: use at least 32"):
        audit(convex, queries=30, lds_subsets=SUBSETS)


def test_a_tuning_that_used_all_queries_leaves_one(convex: Store, tmp_path: Path) -> None:
    """Halves and seeds are others all the same."""
    opened = open_bundle(convex.current(stores.MODEL))
    used = {"tuning": {"queries": len(opened.held_out)}}
    opened.explainer.manifest = replace(opened.explainer.manifest, audit=used)
    with StageProgress(quiet=True) as progress:
        figures = full_audit(opened, AuditOptions(tmp_path, queries=5, lds_subsets=2), progress)
    assert figures["lds"]["queries"] == 1


def test_diverged_trainings_are_told(tmp_path: Path) -> None:
    """Ranked as the largest losses they gave a score like any other."""
    diverging = {"factory": "proponent.training:fit", "kwargs": {"lr": 1e30, "epochs": 2}}
    path = project(tmp_path / "project", count=20, weight_decay=0.05)
    store = Store(tmp_path / "store")
    audited_rebuild(load_spec(tiny.change(path, training=diverging)), store, QUIET)
    expected = r"'training': the losses of 3 of 3 retrained models are not finite, first that of seed 1000000"
    with pytest.raises(SpecError, match=expected):
        audit(store, queries=5, lds_subsets=3)


def bank(models: int, queries: int, seed: int) -> tuple[Tensor, Tensor]:
    """Predicted and measured losses [Q, S] of retrained models whose noise is partly common to all queries."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    predicted = (1 + normal(queries, 1)) * normal(models) + normal(queries, models)
    return predicted, predicted + 1.5 * (normal(models) + normal(queries, models))


@pytest.mark.parametrize("subsets", [8, 16, 32])
def test_an_interval_of_few_subsets_covers_the_score_of_many(subsets: int) -> None:
    """Nominally 95 %; a bootstrap over queries alone, which share the models, covers far less."""

    def score(left: Tensor, right: Tensor) -> Tensor:
        return spearman(left, right).mean()

    runs, covered, by_queries = 40, 0, 0
    for seed in range(runs):
        predicted, losses = bank(96, 24, seed)
        expected = float(score(predicted, losses))
        few = predicted[:, :subsets], losses[:, :subsets]
        low, high = two_way_interval(score, *few, correlation=True, draws=100)
        covered += low <= expected <= high
        of_queries = spearman(*few)
        draws = torch.randint(24, (500, 24), generator=torch.Generator().manual_seed(seed))
        low, high = of_queries[draws].mean(dim=1).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        by_queries += low <= expected <= high
    assert covered >= 0.9 * runs
    assert by_queries < 0.9 * runs


@pytest.mark.parametrize("seeds", [2, 3, 4, 6])
def test_the_ceiling_is_what_the_expected_losses_themselves_score(seeds: int) -> None:
    """Losses are an expectation and noise of the same size a seed; nothing scores more than the expectation does."""
    generator = torch.Generator().manual_seed(seeds)
    expected = torch.randn(400, 50, generator=generator, dtype=torch.float64)
    runs = expected + torch.randn(seeds, 400, 50, generator=generator, dtype=torch.float64)
    found = reliability(runs)
    assert found is not None
    assert found.ceiling == pytest.approx(float(spearman(expected.mT, runs.mean(dim=0).mT).mean()), abs=0.02)
    size = seeds // 2
    assert found.halves == pytest.approx(size / (size + 1), abs=0.03)


def test_of_one_training_no_reliability_is_known_and_noise_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    assert reliability(torch.randn(1, 20, 5, generator=generator)) is None
    noise = reliability(torch.randn(2, 400, 50, generator=generator))
    assert noise is not None and noise.ceiling < 0.3


def test_settings_whose_difference_may_be_chance_tie() -> None:
    predicted, losses = bank(32, 24, 0)
    generator = torch.Generator().manual_seed(1)
    nearly = predicted + 0.05 * torch.randn(predicted.shape, generator=generator, dtype=torch.float64)
    other = torch.randn(predicted.shape, generator=generator, dtype=torch.float64)
    tables = (predicted, nearly, other)
    tried = [(Trial(d, 1.0, 8, float(spearman(t, losses).mean())), t) for d, t in enumerate(tables, start=1)]
    found = with_ties([*tried, (Trial(4.0, 1.0, 8, float("nan")), other)], -losses.mT)
    assert [trial.is_tied for trial in found] == [True, True, False]


def test_an_interval_narrows_with_more_models_and_with_more_queries() -> None:
    def width(models: int, queries: int) -> float:
        left, right = bank(models, queries, 0)
        low, high = two_way_interval(lambda a, b: spearman(a, b).mean(), left, right, correlation=True, draws=100)
        return high - low

    assert width(128, 32) < 0.6 * width(16, 32)
    assert width(128, 64) < width(128, 8)
    low, high = two_way_interval(lambda a, b: (a - b).mean(), *bank(1, 5, 0), correlation=False)
    assert (low, high) == (float("-inf"), float("inf"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"curvature": {"kind": "exact", "damping": "auto"}}, "damping 'auto' is for ekfac and kfac"),
        ({"curvature": {"kind": "ekfac", "damping": "auto"}, "training": None}, "needs the keys 'training'"),
        ({"curvature": {"kind": "ekfac", "damping": "auto"}, "held_out": None}, "needs the keys"),
    ],
)
def test_auto_says_what_it_needs(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    spec = load_spec(tiny.change(project(tmp_path / "project", count=12, iterations=3), **keys))
    with pytest.raises(SpecError, match=expected):
        audited_rebuild(spec, Store(tmp_path / "store"), QUIET)


def test_the_command_prints_and_keeps_the_figures(convex: Store) -> None:
    done = stores.run("audit", "--queries", "20", "--quiet", "--json", store=convex)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    digest = convex.current(stores.MODEL).name
    kept = json.loads((convex.directory(stores.MODEL) / AUDITS / f"{digest}.json").read_text())
    assert figures == kept and figures["distinct_in_top_10"]["influence"] >= 10


def test_other_data_is_retrained_on_anew(tmp_path: Path) -> None:
    """Tensors without ids, whose file changes under the same factory."""
    path = project(tmp_path / "project", count=60, weight_decay=0.05, dataset="Tensors")
    store = Store(tmp_path / "store")
    audited_rebuild(load_spec(path), store, QUIET)
    first = audit(store, queries=20, lds_subsets=6, leave_one_out=4)
    data = load_file(path.parent / "data.safetensors")
    mixed = data["labels"][torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    save_file({**data, "labels": mixed}, path.parent / "data.safetensors")
    audited_rebuild(load_spec(path), store, QUIET)
    second = audit(store, queries=20, lds_subsets=6, leave_one_out=4)
    shutil.rmtree(store.directory(stores.MODEL) / AUDITS)
    assert second != first
    assert audit(store, queries=20, lds_subsets=6, leave_one_out=4) == second


def test_fewer_examples_than_a_list_holds_are_audited(tmp_path: Path) -> None:
    path = project(tmp_path / "project", count=6, weight_decay=0.05)
    store = Store(tmp_path / "store")
    audited_rebuild(load_spec(path), store, QUIET)
    found = audit(store, queries=20, solver_queries=20)
    assert found["distinct_in_top_10"]["influence"] == 6
    assert found["solver"]["proponents_overlap_at_10"] == 1.0


@pytest.mark.parametrize("scores", [(-0.1, -0.05), (float("nan"), -0.05), (-0.05, float("nan"))])
def test_the_best_of_poor_scores_is_chosen(tmp_path: Path, scores: tuple[float, float]) -> None:
    spec = load_spec(project(tmp_path, count=6, curvature={"kind": "ekfac"}))
    trials = [Trial(damping, 1.0, 8, lds) for damping, lds in zip((1.0, 10.0), scores, strict=True)]
    assert choose(spec, trials).chosen.lds == -0.05
    with pytest.raises(SpecError, match="no setting has a score"):
        choose(spec, [Trial(1.0, 1.0, 8, float("nan"))])


def test_a_check_that_retrains_names_the_key_it_needs(tmp_path: Path) -> None:
    path = project(tmp_path / "project", count=20, weight_decay=0.05)
    store = Store(tmp_path / "store")
    audited_rebuild(load_spec(tiny.change(path, training=None)), store, QUIET)
    for options in ({"lds_subsets": 2}, {"leave_one_out": 2}, {"label_noise": 0.2}):
        with pytest.raises(SpecError, match="'training' is missing"):
            audit(store, queries=5, **options)
