"""A rebuild with teachers: what is trained, kept, asked, fitted and written, and what replies say of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import stores
import tiny
from proponent.attribution.agreement import pearson
from proponent.audit.scoring import influence_matrix, open_bundle
from proponent.classifier import load_classifier
from proponent.errors import CorruptBundleError, SpecError, TrainingMismatchError
from proponent.explainer import Explainer
from proponent.gateway.deployment import BundleHandle
from proponent.gateway.lookups import describe_model
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, read_manifest
from proponent.index.forgetting import forget, rewrite_without
from proponent.index.rows import InfluenceIndex
from proponent.index.store import Store
from proponent.inspection.verify import verify
from proponent.options import Diversity, Estimator, ExplainOptions, Measure, Target
from proponent.rebuild.batching import Batching
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.distillation import student
from proponent.rebuild.distillation import teachers as teachers_module
from proponent.rebuild.distillation.pseudo_queries import PseudoQueries, moved, open_unlabelled
from proponent.rebuild.distillation.teacher_rows import check_teacher
from proponent.rebuild.distillation.teachers import TeacherModel, Teaching, half, trained_teachers
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import in_processes, trained_model, training_digest
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.results import Explanation, NoticeCode
from proponent.spec import load_spec
from proponent.training.train_preset import train_preset

TEACHERS = 2
TRAINING = {"factory": "proponent.training:fit", "kwargs": {"epochs": 40, "lr": 0.1, "batch_size": 16}}
CURVATURE = {"kind": "ekfac", "embedding_size": 24, "teachers": TEACHERS, "pseudo_queries": 200}
QUIET = RebuildOptions(quiet=True)
DETERMINED = (files.ROWS, files.SCALES, files.FACTORS)

pytestmark = pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")


def project(root: Path, **keys: Any) -> Path:
    """A small network whose weights are one training of its own recipe, with a held-out set."""
    settings = {"model": "grouped", "count": 60, "training": TRAINING, "expected_accuracy": 0.5, **keys}
    path = tiny.hold_out(tiny.project(root, curvature=settings.pop("curvature", CURVATURE), **settings), 20)
    save_file(trained_model(load_spec(path), None, 0).state_dict(), root / "weights.safetensors")
    return path


@dataclass(frozen=True)
class Built:
    """The same model with teachers and without."""

    spec: Path
    store: Store
    distilled: Path
    own: Path

    @property
    def teachers(self) -> list[Path]:
        return sorted((self.store.directory("toy") / teachers_module.TEACHERS).rglob("*.safetensors"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("distillation")
    path = project(root)
    store = Store(root / "store")
    distilled = rebuild(load_spec(path), store, QUIET)
    own = rebuild(load_spec(_copy(path, curvature={"kind": "ekfac"})), Store(root / "own"), QUIET)
    return Built(path, store, distilled, own)


def _copy(path: Path, **keys: Any) -> Path:
    """The spec of a project with other keys, in the same folder."""
    content = {**tiny.yaml.safe_load(path.read_text()), **keys}
    other = path.with_name("other.yaml")
    other.write_text(tiny.yaml.safe_dump(content))
    return other


def opened(bundle: Path) -> tuple[Manifest, InfluenceIndex]:
    explainer = Explainer.load(bundle)
    return explainer.manifest, explainer.index


# What is written ----------------------------------------------------------------------------------------------


def test_manifest_and_replies_say_whose_scores_they_are(built: Built) -> None:
    manifest = read_manifest(built.distilled)
    assert (manifest.teachers, manifest.embedding_size, read_manifest(built.own).teachers) == (TEACHERS, 24, 0)
    assert manifest.distillation["seeds"] == [3_000_000, 3_000_001]
    assert manifest.distillation["halves"] == 2
    assert (manifest.distillation["pseudo_queries"], manifest.distillation["unlabelled"]) == (200, 0)
    assert 0.5 < manifest.distillation["kept"] <= 1
    assert manifest.distillation["recipe"] == built.teachers[0].parent.name
    explainer = Explainer.load(built.distilled)
    [value], member = tiny.inputs(1), ["toy/3"]
    [answer] = explainer.explain([value], [ExplainOptions()])
    assert isinstance(answer, Explanation)
    replies = [
        answer,
        explainer.score_examples(value, member, ExplainOptions()),
        explainer.estimate_removal(value, Target(), member),
        explainer.find_flip_set(value),
    ]
    for reply in replies:
        [notice] = [each for each in reply.notices if each.code is NoticeCode.SCORES_DISTILLED]
        assert notice.count == TEACHERS and "of the recipe" in notice.message
        assert "(2 of them on a half of the training set each)" in notice.message
    [plain] = Explainer.load(built.own).explain([value], [ExplainOptions()])
    assert isinstance(plain, Explanation)
    assert NoticeCode.SCORES_DISTILLED not in [each.code for each in plain.notices]


def test_get_model_says_how_many_teachers(built: Built) -> None:
    handle = BundleHandle.open(built.distilled)
    assert describe_model(handle).teachers == TEACHERS
    handle.catalog.close()


def test_scores_follow_the_teachers_on_queries_that_the_fit_never_saw(built: Built, tmp_path: Path) -> None:
    """Each teacher has a bundle of its own; a distilled score is nearer to their mean than the model's own."""
    queries = list(range(20))
    distilled, own = (influence_matrix(open_bundle(bundle), queries) for bundle in (built.distilled, built.own))
    wanted, mean = torch.zeros_like(own), own / (TEACHERS + 1)
    for number, weights in enumerate(built.teachers):
        spec = load_spec(_copy(built.spec, weights=str(weights), curvature={"kind": "ekfac"}))
        scores = influence_matrix(open_bundle(rebuild(spec, Store(tmp_path / str(number)), QUIET)), queries)
        wanted += scores / scores.std(dim=1, keepdim=True)
        mean += scores / (TEACHERS + 1)
    followed, before = (float(pearson(scores, wanted).mean()) for scores in (distilled, own))
    assert followed > 0.9 and 1 - followed < 0.75 * (1 - before)
    slopes = (mean * distilled).sum(dim=1) / distilled.square().sum(dim=1)
    assert 0.5 < float(slopes.median()) < 2.0  # in the unit of I: the fit made it 1 on other queries


def test_which_numbers_are_whose(built: Built, tmp_path: Path) -> None:
    (_, distilled), (_, own) = opened(built.distilled), opened(built.own)
    assert torch.equal(distilled.scales.self_influence, own.scales.self_influence)
    theta = [own.scales.norms / own.scales.relative_theta]
    root = [own.scales.self_influence.sqrt()]
    for number, weights in enumerate(built.teachers):
        spec = load_spec(_copy(built.spec, weights=str(weights), curvature={"kind": "ekfac"}))
        scales = opened(rebuild(spec, Store(tmp_path / str(number)), QUIET))[1].scales
        theta.append(scales.norms / scales.relative_theta)
        root.append(scales.self_influence.sqrt())
    norms = distilled.scales.norms
    torch.testing.assert_close(distilled.scales.of(Measure.THETA_RELATIF), norms / torch.stack(theta).mean(dim=0))
    torch.testing.assert_close(distilled.scales.of(Measure.L_RELATIF), norms / torch.stack(root).mean(dim=0))
    assert not bool(distilled.scales.curvature.any())


@pytest.fixture(scope="module")
def coded(built: Built) -> Path:
    """The same with rows of 10 numbers."""
    path = _copy(built.spec, curvature={**CURVATURE, "embedding_size": 10})
    return rebuild(load_spec(path), built.store, RebuildOptions(publish=False, quiet=True))


def test_rows_shorter_than_what_teachers_say_are_coded_by_class(built: Built, coded: Path) -> None:
    """10 numbers in bases of each class hold what 60 do, and the bundle is whole."""
    manifest = read_manifest(coded)
    assert (manifest.embedding_size, manifest.row_groups) == (10, 3) and files.CODE in manifest.files
    assert manifest.query_size == opened(coded)[1].size > 10
    assert manifest.distillation["kept"] > 0.95 and verify(coded).whole
    path = _copy(built.spec, curvature={**CURVATURE, "embedding_size": 60})
    longer = rebuild(load_spec(path), built.store, RebuildOptions(publish=False, quiet=True))
    assert read_manifest(longer).row_groups == 0
    scores, whole = (influence_matrix(open_bundle(bundle), list(range(20))) for bundle in (coded, longer))
    assert float(pearson(scores, whole).min()) > 0.97
    _, index = opened(coded)
    assert (index.size, index.row_size) == (len(open_bundle(coded).explainer.index.unit_rows([0])[0]), 10)


def test_coded_rows_answer_every_kind_of_question(coded: Path) -> None:
    """Lists, named examples, diverse lists and removals speak of the same scores."""
    explainer = Explainer.load(coded)
    [value] = tiny.inputs(1)
    diverse = ExplainOptions(top_k=5, diversity=Diversity(gamma=0.0, candidates=20))
    plain, chosen = explainer.explain([value, value], [ExplainOptions(top_k=5), diverse])
    assert isinstance(plain, Explanation) and isinstance(chosen, Explanation)
    hits = plain.results[0].proponents
    assert [each.example_id for each in chosen.results[0].proponents] == [each.example_id for each in hits]
    named = explainer.score_examples(value, [each.example_id for each in hits], ExplainOptions()).results[0].scores
    assert [each.score for each in named] == pytest.approx([each.score for each in hits], rel=1e-5)
    removal = explainer.estimate_removal(value, Target(), [hits[0].example_id], estimator=Estimator.INFLUENCE_SUM)
    assert removal.loss_change == pytest.approx(hits[0].score / 60, rel=1e-3)


def test_a_coded_bundle_without_some_rows_scores_the_others_as_before(coded: Path, tmp_path: Path) -> None:
    home = tmp_path / "toy" / "bundles" / coded.name
    shutil.copytree(coded, home)
    before = influence_matrix(open_bundle(home), list(range(20)))
    rest = rewrite_without(home, [3, 17, 58])
    keep = torch.ones(60, dtype=torch.bool)
    keep[[3, 17, 58]] = False
    assert verify(rest).whole
    torch.testing.assert_close(influence_matrix(open_bundle(rest), list(range(20))), before * keep)


def test_a_code_that_is_overwritten_while_it_serves_is_damage(coded: Path, tmp_path: Path) -> None:
    """It stays mapped: what is written over it would change scores without a word."""
    home = Path(shutil.copytree(coded, tmp_path / "toy" / "bundles" / coded.name))
    explainer = Explainer.load(home)
    explainer.check()
    with (home / files.CODE).open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    with pytest.raises(CorruptBundleError, match=files.CODE):
        explainer.check()


def test_a_removal_s_second_order_is_its_first_and_both_are_sums_of_scores(built: Built) -> None:
    explainer = Explainer.load(built.distilled)
    [value], group = tiny.inputs(1), ["toy/1", "toy/8", "toy/33"]

    def change(estimator: Estimator) -> float:
        return explainer.estimate_removal(value, Target(), group, estimator=estimator).loss_change

    [scores] = explainer.score_examples(value, group, ExplainOptions(measures=(Measure.INFLUENCE,))).results
    total = sum(one.score for one in scores.scores) / 60
    assert change(Estimator.INFLUENCE_SUM) == pytest.approx(total, rel=1e-3)
    shift = explainer.estimate_removal(value, Target(), group).probabilities_after
    again = explainer.estimate_removal(value, Target(), group, estimator=Estimator.SECOND_ORDER).probabilities_after
    assert shift == pytest.approx(again, rel=1e-3)


def test_verify_checks_files_and_says_why_no_row_is_computed_again(built: Built) -> None:
    found = verify(built.distilled)
    assert found.whole and found.rescored == 0
    assert f"distilled from {TEACHERS} teachers" in found.skipped


# Teachers are kept --------------------------------------------------------------------------------------------


def test_teachers_are_other_trainings_of_the_recipe_and_are_not_trained_again(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(built.teachers) == TEACHERS
    served = load_file(built.spec.parent / "weights.safetensors")
    states = [load_file(path) for path in built.teachers]
    assert all(not torch.equal(state[name], served[name]) for state in states for name in ("0.weight", "4.weight"))
    expected = trained_model(load_spec(built.spec), half(60, 0)[1], 3_000_001).state_dict()
    torch.testing.assert_close(states[1], expected)

    def refuse(*arguments: object) -> Iterator[None]:
        raise AssertionError("a kept teacher was trained again")

    monkeypatch.setattr(teachers_module, "in_processes", refuse)
    other = {**CURVATURE, "ridge": 0.1}
    bundle = rebuild(
        load_spec(_copy(built.spec, curvature=other)), built.store, RebuildOptions(publish=False, quiet=True)
    )
    assert read_manifest(bundle).teachers == TEACHERS


def test_a_model_that_was_moved_keeps_its_teachers(tmp_path: Path) -> None:
    """Where a spec lies says nothing of what its trainings give; what its factories read there does."""
    here, there = tmp_path / "here", tmp_path / "there"
    train_preset("loans", here, limit=40, epochs=1)
    shutil.copytree(here, there)
    assert _digest(here) == _digest(there)
    (there / "table.json").write_text((there / "table.json").read_text() + "\n")
    assert _digest(here) != _digest(there)


def _digest(project: Path) -> str:
    spec = load_spec(project)
    return training_digest(spec, TrainingSet.open(load_classifier(spec), spec.dataset))


def test_more_teachers_are_added_to_those_kept_and_jobs_train_them(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def notice(task: Any, arguments: Any, jobs: int) -> Iterator[None]:
        asked.append(([each[1] for each in arguments], jobs))
        return in_processes(task, arguments, jobs)

    monkeypatch.setattr(teachers_module, "in_processes", notice)
    arguments = ["rebuild", built.spec, "--teachers", "3", "--jobs", "2", "--quiet", "--no-publish"]
    manifest = stores.output(*arguments, store=built.store)
    assert (asked, manifest["teachers"]) == ([([3_000_002], 2)], 3)


def test_a_forgotten_example_takes_no_part_in_a_training(tmp_path: Path) -> None:
    """Other data, other teachers: they are what a training without the example gives."""
    path = project(tmp_path)
    store = Store(tmp_path / "store")
    rebuild(load_spec(path), store, QUIET)
    forget(store, "toy", ["toy/5"])
    bundle = rebuild(load_spec(path), store, QUIET)
    directories = [each for each in (store.directory("toy") / teachers_module.TEACHERS).iterdir()]
    assert len(directories) == 2
    kept = store.directory("toy") / teachers_module.TEACHERS / read_manifest(bundle).distillation["recipe"]
    expected = trained_model(load_spec(path), half(59, 0)[0], 3_000_000, forgotten=["toy/5"]).state_dict()
    torch.testing.assert_close(load_file(kept / "half-00000.safetensors"), expected)


@pytest.mark.parametrize(
    ("count", "on", "whole"),
    [(1, "mixed", [0]), (2, "mixed", []), (4, "mixed", [2, 3]), (10, "mixed", [2, 5, 8, 9]), (3, "all", [0, 1, 2])],
)
def test_halves_come_in_pairs_that_hold_each_example_once(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, on: str, whole: list[int]
) -> None:
    monkeypatch.setattr(teachers_module, "in_processes", lambda task, arguments, jobs: iter(arguments))
    spec = load_spec(_copy(built.spec, curvature={**CURVATURE, "teachers": count, "teachers_on": on}))
    data, progress = training_set(built.spec), StageProgress(quiet=True)
    models = trained_teachers(spec, data, Teaching(tmp_path), progress)
    assert [each.number for each in models if each.positions is None] == whole
    assert [each.seed for each in models] == list(range(3_000_000, 3_000_000 + count))
    halves = [each.positions for each in models if each.positions is not None]
    assert all(len(some) == 30 for some in halves)
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        assert sorted([*one, *other]) == list(range(60))
    assert len({tuple(some) for some in halves}) == len(halves) == len(models) - len(whole)


def test_a_teacher_is_judged_by_what_it_has_seen(built: Built, tmp_path: Path) -> None:
    classifier = load_classifier(load_spec(built.spec))
    workspace, wrong = Workspace(tmp_path / "work", "key"), torch.arange(60) % 2
    accuracy = torch.tensor(0.5, dtype=torch.float64)
    found = {"predictions": wrong, "labels": torch.zeros(60).long(), "faults": torch.zeros(3).long()}
    workspace.save("survey", {**found, "accuracy": accuracy})
    data = training_set(built.spec)
    context = RebuildContext(
        classifier, classifier.find_layers(), data, Batching.of(8), workspace, StageProgress(quiet=True)
    )
    assert len(classifier.class_names) == 3
    check_teacher(context, TeacherModel(0, list(range(0, 60, 2)), tmp_path), 0.9)
    check_teacher(context, TeacherModel(0, list(range(30)), tmp_path), 0.6)  # half as far above chance: 0.467
    for seen, words in ((None, "0.9000"), (list(range(30)), "0.6167")):
        match = rf"teacher 4 \(seed 3000004.*\): training accuracy is 0.5000, expected at least {words}"
        with pytest.raises(TrainingMismatchError, match=match):
            check_teacher(context, TeacherModel(4, seen, tmp_path), 0.9)


@pytest.mark.parametrize("stage", ["teacher-e3b0c442-00001", "student"])
def test_a_rebuild_killed_between_teachers_resumes_to_the_same_files(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Killed as kill -9 does; what was finished is not computed again, and no teacher's stages stay behind.

    With as many threads as this process has: libraries of matrix products round by how these share the work.
    """
    store, kept = Store(tmp_path / "store"), teachers_module.TEACHERS
    shutil.copytree(built.store.directory("toy") / kept, store.directory("toy") / kept)
    command = [sys.executable, "-m", "proponent.cli", "rebuild", str(built.spec), "--store", str(store.root)]
    environment = {
        **os.environ,
        "PROPONENT_FAULT": f"stage.written:{stage}",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run([*command, "--quiet"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 137, done.stderr
    saved, save = [], Workspace.save

    def notice(self: Workspace, name: str, tensors: Any) -> None:
        saved.append(name)
        save(self, name, tensors)

    monkeypatch.setattr(Workspace, "save", notice)
    bundle = rebuild(load_spec(built.spec), store, QUIET)
    assert stage in saved and not {"survey", "rows-00000", "teacher-e3b0c442-00000"} & set(saved)
    expected, found = read_manifest(built.distilled).files, read_manifest(bundle).files
    assert {name: found[name] for name in DETERMINED} == {name: expected[name] for name in DETERMINED}
    assert not (store.directory("toy") / "work").exists()


# What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        (
            {"curvature": {"kind": "exact", "teachers": 2}},
            SpecError,
            "'curvature.teachers'.*value 2: expected 0 with",
        ),
        ({"training": None}, SpecError, "key 'training' is missing: teachers are trained by it"),
        (
            {"training": {**TRAINING, "kwargs": {"lr": 1e30, "epochs": 2}}},
            SpecError,
            "'training': the training of seed 300000[01] diverged",
        ),
        (
            {"training": {**TRAINING, "kwargs": {"lr": 1e-9, "epochs": 1}}},
            TrainingMismatchError,
            r"teacher 0 \(seed 3000000, on a half\): training accuracy is .*'training': it does not give",
        ),
    ],
)
def test_what_cannot_be_distilled_is_told(
    built: Built, tmp_path: Path, keys: dict[str, Any], error: type[Exception], match: str
) -> None:
    keys = {"expected_accuracy": 0.6, **keys}
    with pytest.raises(error, match=match):
        rebuild(load_spec(_copy(built.spec, **keys)), Store(tmp_path / "store"), QUIET)


def test_rows_too_short_for_what_teachers_say_are_warned_of(built: Built) -> None:
    path = _copy(built.spec, curvature={**CURVATURE, "embedding_size": 1})
    with pytest.warns(student.FewNumbersWarning, match=r"the 1 numbers of a row hold \d+% of what was fitted"):
        bundle = rebuild(load_spec(path), built.store, RebuildOptions(publish=False, quiet=True))
    assert read_manifest(bundle).distillation["kept"] < student.LEAST_KEPT


def test_a_fit_that_the_memory_does_not_hold_is_refused_before_anything_is_trained(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "_HELD", 1 << 20)
    store = Store(tmp_path / "store")
    with pytest.raises(SpecError, match=r"\(--memory\) is too small: a fit to teachers of 60 examples"):
        rebuild(load_spec(built.spec), store, QUIET)
    assert not (store.directory("toy") / teachers_module.TEACHERS).exists()


def test_teachers_of_exact_curvature_are_refused_on_the_command_line(tmp_path: Path) -> None:
    done = stores.run("rebuild", tiny.project(tmp_path), "--teachers", "2", store=Store(tmp_path / "store"))
    assert done.returncode != 0 and "expected 0 with kind 'exact'" in done.stderr


# Pseudo-queries -----------------------------------------------------------------------------------------------


def training_set(path: Path) -> TrainingSet:
    classifier = load_classifier(load_spec(path))
    return TrainingSet.open(classifier, classifier.spec.dataset)


def inputs_of(queries: PseudoQueries, size: int) -> Tensor:
    blocks = (range(start, min(start + size, len(queries))) for start in range(0, len(queries), size))
    found = [queries.inputs(block) for block in blocks]
    return torch.cat([block for block in found if isinstance(block, Tensor)])


class Vectors:
    """Points without neighbours, so that a mixture tells what it was made of."""

    def __init__(self) -> None:
        self.points = torch.randn(30, 36, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.points[position], position % 3


def test_pseudo_queries_are_mixtures_of_two_examples_whatever_the_batch(built: Built) -> None:
    data = TrainingSet(Vectors(), load_classifier(load_spec(built.spec)))
    queries = PseudoQueries(data, None, 50, seed=1)
    found = inputs_of(queries, 7)
    assert torch.equal(found, inputs_of(PseudoQueries(data, None, 50, seed=1), 50))
    assert not torch.equal(found, inputs_of(PseudoQueries(data, None, 50, seed=2), 50))
    examples = Vectors().points.double()
    for value, origin in zip(found.double(), queries.origins.tolist(), strict=True):
        towards = examples - examples[origin]
        share = (towards @ (value - examples[origin])) / towards.square().sum(dim=1).clamp(min=1e-9)
        distance = (value - examples[origin] - share[:, None] * towards).norm(dim=1)
        assert float(distance.min()) < 1e-5 and -1e-6 < float(share[distance.argmin()]) < 0.5 + 1e-6


def test_given_inputs_come_first_and_as_they_are(built: Built) -> None:
    module = load_spec(built.spec).model.factory.partition(":")[0]
    path = _copy(built.spec, unlabelled={"factory": f"{module}:Unlabelled", "kwargs": {"limit": 12}})
    data = training_set(path)
    unlabelled = open_unlabelled(load_classifier(load_spec(path)), data)
    assert unlabelled is not None
    queries = PseudoQueries(data, unlabelled, 40, seed=1)
    assert (queries.given, queries.origins[:12].tolist()) == (12, [-1] * 12)
    assert torch.equal(inputs_of(queries, 40)[:12], unlabelled.batch(range(12)).inputs)
    assert PseudoQueries(data, unlabelled, 5, seed=1).given == 5
    other = {"factory": f"{module}:HeldOut"}
    changed = open_unlabelled(load_classifier(load_spec(_copy(path, unlabelled=other))), data)
    assert PseudoQueries(data, changed, 40, seed=1).digest() != queries.digest()


def test_unlabelled_inputs_of_another_shape_are_refused(built: Built) -> None:
    path = _copy(built.spec, unlabelled={"factory": "proponent.datasets.digits:train"})
    with pytest.raises(SpecError, match=r"key 'unlabelled'.*shape \[1, 8, 8\], expected \[1, 6, 6\]"):
        open_unlabelled(load_classifier(load_spec(path)), training_set(path))


def test_a_bundle_counts_the_inputs_that_were_given(built: Built) -> None:
    held_out = load_spec(built.spec).held_out
    assert held_out is not None
    path = _copy(built.spec, unlabelled=held_out.model_dump(), curvature={**CURVATURE, "pseudo_queries": 30})
    bundle = rebuild(load_spec(path), built.store, RebuildOptions(publish=False, quiet=True))
    assert read_manifest(bundle).distillation["unlabelled"] == 20


def test_whole_numbers_are_neither_mixed_nor_moved(built: Built) -> None:
    class Tokens:
        def __len__(self) -> int:
            return 30

        def __getitem__(self, position: int) -> tuple[Tensor, int]:
            return torch.arange(position, position + 36).reshape(1, 6, 6).float(), position % 3

    data = TrainingSet(Tokens(), load_classifier(load_spec(built.spec)))
    queries = PseudoQueries(data, None, 20, seed=1)
    assert torch.equal(inputs_of(queries, 20), data.batch(queries.origins.tolist()).inputs)


def test_an_image_moves_by_an_eighth_and_repeats_its_edges() -> None:
    image = torch.arange(16.0).reshape(1, 1, 16).expand(1, 16, 16)
    there, back = (moved(image, torch.tensor([0.0, share]))[0, 0].tolist() for share in (1.0, -1.0))
    assert there == [0, 0, *range(14)] and back == [*range(2, 16), 15, 15]
    assert torch.equal(moved(image.mT, torch.tensor([1.0, 0.0])), moved(image, torch.tensor([0.0, 1.0])).mT)
    vector = torch.arange(5.0)
    assert moved(vector, torch.tensor([1.0, 1.0])) is vector
