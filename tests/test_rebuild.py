"""A rebuild refuses what would give wrong explanations, resumes where it died, and does not depend on batches."""

from __future__ import annotations

import fcntl
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import interrupted
import tiny
from proponent.classifier import load_classifier
from proponent.errors import CurvatureError, ProponentError, SpecError, TrainingMismatchError
from proponent.explainer import Explainer
from proponent.index import bundle as files
from proponent.index.bundle import read_manifest, verify_files
from proponent.index.catalog import Catalog
from proponent.index.rows import InfluenceIndex
from proponent.index.store import Store
from proponent.options import ExplainOptions, Target
from proponent.rebuild import batching
from proponent.rebuild import memory as budget
from proponent.rebuild.batching import Batching
from proponent.rebuild.context import Compute, InProcess, RebuildContext, Task
from proponent.rebuild.coverage import UncoveredWarning
from proponent.rebuild.ekfac import SmallDampingWarning
from proponent.rebuild.executors import executor_at
from proponent.rebuild.joint_sample import most_subspace
from proponent.rebuild.memory import block_size
from proponent.rebuild.pipeline import (
    NotStationaryWarning,
    OmittedWarning,
    RebuildOptions,
    rebuild,
)
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.results import Explanation, NoticeCode
from proponent.spec import load_spec

KINDS: dict[str, dict[str, Any]] = {
    "exact": {"model": "logistic", "curvature": {"kind": "exact"}},
    "energy": {"model": "logistic", "curvature": {"kind": "exact", "energy": 0.95}},
    "ekfac": {"model": "grouped", "curvature": {"kind": "ekfac", "embedding_size": 25}},
    "kfac": {"model": "grouped", "curvature": {"kind": "kfac", "embedding_size": 25, "fisher": "ggn"}},
}


def build(path: Path, store: Path | None = None, **options: Any) -> Path:
    where = Store(store or path.parent / "store")
    return rebuild(load_spec(path), where, RebuildOptions(quiet=True, **options))


@dataclass(frozen=True)
class Rows:
    """What a bundle holds of its rows, [N, K] and [N], float64."""

    phi: Tensor
    norms: Tensor
    scales: dict[str, Tensor]

    @classmethod
    def of(cls, bundle: Path) -> Rows:
        manifest = read_manifest(bundle)
        verify_files(bundle, manifest)
        index = InfluenceIndex.open(bundle / files.ROWS, bundle / files.SCALES, manifest.embedding_size)
        norms = index.scales.norms
        unit = index.unit_rows(range(len(index))).double()
        return cls(unit * norms[:, None], norms, dict(vars(index.scales)))


def check_same(found: Path, expected: Path) -> None:
    """Every file but the manifest is the same, bit by bit: a row in half precision leaves no room for less."""
    assert read_manifest(found).files == read_manifest(expected).files


# What a bundle holds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_is_complete_published_and_describes_itself(tmp_path: Path, kind: str) -> None:
    path = tiny.project(tmp_path, **KINDS[kind])
    bundle = build(path)
    store = Store(tmp_path / "store")
    manifest = read_manifest(bundle)
    assert store.current("toy") == bundle
    assert (manifest.curvature, manifest.train_size) == (KINDS[kind]["curvature"]["kind"], 40)
    assert (manifest.class_names, manifest.image_mode, manifest.image_size) == (tiny.CLASSES, "L", [6, 6])
    assert manifest.train_accuracy > 0.9 and manifest.gradient_norm_ratio < 0.05
    assert 0 < manifest.kept_energy <= 1 and manifest.uncovered == {}
    assert len(Rows.of(bundle).norms) == 40
    labels = tiny.pictures(40)[1].tolist()
    for entry in Catalog.open(bundle / files.CATALOG):
        assert (entry.example_id, entry.source) == (f"toy/{entry.row}", f"data.safetensors#{entry.row}")
        assert entry.class_id == labels[entry.row] and entry.thumbnail.startswith(b"\x89PNG")
    assert not (store.directory("toy") / "work").exists()


def test_the_bundle_serves_after_the_users_weights_are_gone(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    bundle = build(path)
    (tmp_path / "weights.safetensors").unlink()
    path.unlink()
    [answer] = Explainer.load(bundle).explain(tiny.inputs(1), [ExplainOptions()])
    assert isinstance(answer, Explanation)


def test_an_unpublished_bundle_is_there_and_not_current(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    first = build(path)
    second = build(tiny.change(path, curvature={"kind": "exact", "damping": 0.5}), publish=False)
    assert second != first and read_manifest(second).damping == 0.5
    assert Store(tmp_path / "store").current("toy") == first


def test_layers_that_are_not_covered_are_named_with_their_share(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, model="normed", curvature={"kind": "ekfac"}, expected_accuracy=0)
    expected = r"8\.1% of the trained parameters .*: 1\.weight, 1\.bias"
    # Trained with batch statistics, explained with running ones: no minimum.
    with pytest.warns(NotStationaryWarning), pytest.warns(UncoveredWarning, match=expected):
        manifest = read_manifest(build(path))
    assert manifest.uncovered == {"1.weight": 4, "1.bias": 4}
    assert manifest.uncovered_share == pytest.approx(8 / (40 + 8 + 51))


def test_chosen_layers_alone_are_covered(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, model="grouped", curvature={"kind": "exact", "layers": ["4"]})
    with pytest.warns(UncoveredWarning):
        assert read_manifest(build(path)).embedding_size == 15


# What it refuses --------------------------------------------------------------------------------------------


def refused(path: Path, kind: type[ProponentError], expected: str) -> ProponentError:
    with pytest.raises(kind, match=expected) as caught:
        build(path)
    assert Store(path.parent / "store").models() == []
    return caught.value


def test_weights_that_do_not_classify_as_expected_are_refused(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    save_file({key: value.flip(0).contiguous() for key, value in weights.items()}, tmp_path / "weights.safetensors")
    error = refused(path, TrainingMismatchError, r"training accuracy is 0\.\d+, expected at least 0\.8000")
    assert (error.field, error.reason) == ("expected_accuracy", "ACCURACY_BELOW_EXPECTED")
    assert "transform" in error.message and "class_names" in error.message and "weights" in error.message


def test_a_model_far_from_a_minimum_is_built_with_a_warning(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, iterations=4, expected_accuracy=0)
    with pytest.warns(NotStationaryWarning, match="gradient norm is .* train longer, or check weight_decay"):
        assert read_manifest(build(path)).gradient_norm_ratio > 0.05


def test_another_weight_decay_than_in_training_warns_too(tmp_path: Path) -> None:
    path = tiny.change(tiny.project(tmp_path), weight_decay=0.1)
    with pytest.warns(NotStationaryWarning):
        build(path)


SMALLER = {
    "factory": "proponent.datasets.transforms:normalized",
    "kwargs": {"mean": [0.5], "std": [0.5], "size": [5, 5]},
}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"dataset_kwargs": {"same_id": True}}, "two examples have the id 'toy/0'"),
        ({"dataset": "Tensors", "dataset_kwargs": {"value": "nan"}}, "example '3' holds NaN or infinite"),
        ({"dataset": "Tensors", "dataset_kwargs": {"value": "-inf"}}, "example '3' holds NaN or infinite"),
        ({"dataset": "Tensors", "dataset_kwargs": {"label": 3}}, r"example '3' has label 3, expected 0\.\.2"),
        ({"dataset": "Tensors", "dataset_kwargs": {"label": -1}}, r"example '3' has label -1, expected 0\.\.2"),
        ({"dataset": "Tensors", "dataset_kwargs": {"short": 1}}, r"example '1' has shape \[1, 3, 6\], expected"),
        ({"dataset_kwargs": {"limit": 0}}, "expected a map-style dataset with at least one example"),
        ({"dataset_kwargs": {"lmiit": 1}}, "key 'dataset.kwargs' has value"),
        ({"dataset": "Unlabelled"}, "key 'dataset': example 0 cannot be read .*TypeError"),
        ({"dataset_kwargs": {"broken": True}}, "key 'dataset': example 0 cannot be read .*OSError: no such picture"),
        ({"transform": SMALLER}, r"key 'model': it fails on inputs of shape \[3, 1, 5, 5\].*RuntimeError"),
        ({"class_names": ["a", "b", "c", "d"]}, "key 'class_names' has 4 names, but the model has 3 classes"),
        ({"transform": {"factory": "builtins:bytes"}}, "key 'transform': it fails on example 'toy/0'"),
        ({"curvature": {"layers": ["head"]}}, "No layer 'head'.*known layers are 1"),
    ],
)
def test_unusable_data_and_settings_are_named(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    refused(tiny.project(tmp_path, iterations=5, **keys), SpecError, expected)


def test_without_weight_decay_damping_is_required_and_recorded(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, weight_decay=0, random_labels=True, count=300, expected_accuracy=0)
    refused(path, CurvatureError, "singular: smallest eigenvalue .* Set weight_decay or damping > 0")
    bundle = build(tiny.change(path, curvature={"kind": "exact", "damping": 0.25}))
    assert read_manifest(bundle).damping == 0.25
    assert bool(torch.isfinite(Rows.of(bundle).phi).all())


def test_an_indefinite_hessian_is_refused_with_its_smallest_eigenvalue(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, model="grouped", weight_decay=0, iterations=3, expected_accuracy=0)
    refused(path, CurvatureError, r"indefinite: smallest eigenvalue -0\.\d+")


def test_a_model_too_large_for_a_dense_hessian_is_refused(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, curvature={"kind": "exact", "max_parameters": 50})
    refused(path, CurvatureError, "111 parameters exceeds the limit of 50")


def test_a_second_rebuild_is_refused_while_one_runs_and_not_after(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    lock = tmp_path / "store" / "toy" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProponentError, match=f"{lock} is locked") as caught:
            build(path)
        assert caught.value.reason == "REBUILD_RUNNING"
    build(path)


def test_a_failed_rebuild_leaves_the_current_bundle(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    first = build(path)
    with pytest.raises(TrainingMismatchError):
        build(tiny.change(path, expected_accuracy=1.0, class_names=["a", "b", "c"], dataset=shuffled(path)))
    assert Store(tmp_path / "store").current("toy") == first


def shuffled(path: Path) -> dict[str, Any]:
    """The dataset with one wrong label."""
    module = load_spec(path).model.factory.partition(":")[0]
    return {"factory": f"{module}:Tensors", "kwargs": {"label": 2}}


def test_a_layer_whose_weights_are_used_elsewhere_is_left_out_and_named(tmp_path: Path) -> None:
    path = tiny.project(
        tmp_path, model="tied", expected_accuracy=0.5, curvature={"kind": "ekfac", "layers": ["encoder"]}
    )
    refused(path, SpecError, "layer 'encoder' cannot be covered")
    tiny.change(path, curvature={"kind": "ekfac"})
    with pytest.warns(UncoveredWarning, match=r"take no part.*encoder\.weight"):
        bundle = build(path)
    assert set(read_manifest(bundle).uncovered) == {"encoder.weight", "encoder.bias"}
    [answer] = Explainer.load(bundle).explain(tiny.inputs(1), [ExplainOptions()])
    assert isinstance(answer, Explanation) and answer.results[0].proponents
    assert NoticeCode.LAYERS_UNCOVERED in [notice.code for notice in answer.notices]


STEEP = """
from torch import nn

class Steep(nn.Sequential):
    def forward(self, x):
        outputs = super().forward(x)
        here = x.flatten(1).amin(dim=1) == x.flatten(1).amax(dim=1)
        found = outputs.clone()
        found[here] = found[here] + (found[here] - found[here].detach()).abs().sqrt()
        return found

def steep():
    return Steep(nn.Flatten(), nn.Linear(36, 3))
"""
"""Finite outputs, but for a picture of one colour the slope of a root at zero."""


def test_an_example_whose_gradient_is_not_finite_is_named(tmp_path: Path) -> None:
    """Also one that the factors are not fitted to."""
    path = tiny.project(tmp_path, curvature={"kind": "ekfac", "fit_examples": 10})
    (tmp_path / "steep.py").write_text(STEEP)
    classifier = load_classifier(load_spec(path))
    place = max(set(range(40)).difference(TrainingSet.open(classifier, classifier.spec.dataset).sample(10, 0)))
    stored = load_file(tmp_path / "data.safetensors")
    stored["pixels"][place] = 200
    save_file(stored, tmp_path / "data.safetensors")
    tiny.change(path, model={"factory": "steep:steep"}, expected_accuracy=0.5)
    with pytest.raises(CurvatureError, match=f"the gradient of example 'toy/{place}' is NaN or infinite"):
        build(path)


# Resuming ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["energy", pytest.param("ekfac", marks=pytest.mark.slow)])
def test_a_rebuild_killed_at_any_save_resumes_to_the_same_rows(tmp_path: Path, kind: str) -> None:
    path = tiny.project(tmp_path / "project", count=20, **KINDS[kind])
    done = subprocess.run(
        [sys.executable, interrupted.__file__, str(path), str(tmp_path)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    saves = json.loads((tmp_path / "saves.json").read_text())
    expected = Store(tmp_path / "whole").current("toy")
    fitted = int(kind == "ekfac")
    for stage, parts in {"rows-": 2, "products-": fitted, "columns-": interrupted.PIECES * fitted}.items():
        assert sum(name.startswith(stage) for name in saves["whole"]) == parts
    reading = ["reading-00000", "reading-00001"]  # again by each run, as data may have changed
    for k, resumed in enumerate(saves["resumed"]):
        assert resumed == reading + saves["whole"][max(k, len(reading)) :]
        check_same(Store(tmp_path / f"killed-{k}").current("toy"), expected)


class Killed(BaseException):
    """Stands for a kill inside this process."""


def interrupt(path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """A rebuild that ends at the save of a stage."""
    save = Workspace.save

    def dying(self: Workspace, name: str, tensors: Any) -> None:
        if name == stage:
            raise Killed
        save(self, name, tensors)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Workspace, "save", dying)
        build(path)


def test_what_was_stored_for_other_weights_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.project(tmp_path)
    interrupt(path, monkeypatch, "rows-00000")
    other = {key: value * 1.001 for key, value in load_file(tmp_path / "weights.safetensors").items()}
    save_file(other, tmp_path / "weights.safetensors")
    check_same(build(path), build(path, tmp_path / "fresh"))


def test_eigenvectors_are_not_chosen_again_after_a_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of threads may turn them, and what is stored after them would mean something else."""
    path = tiny.project(tmp_path, **KINDS["ekfac"])
    interrupt(path, monkeypatch, "rows-00000")

    def chosen_again(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("proponent.rebuild.compression.fit_subspaces", chosen_again)
        patch.setattr("proponent.rebuild.joint_stage.mixtures_of", chosen_again)
        patch.setattr("proponent.rebuild.ekfac.eigenbases", chosen_again)
        resumed = build(path)
    check_same(resumed, build(path, tmp_path / "fresh"))


def test_a_killed_rebuild_goes_on_with_another_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The joint basis is fitted to as many rows as it holds: nothing of one sample is taken for another's."""
    monkeypatch.setattr("proponent.rebuild.batching.CHUNK", 8)
    monkeypatch.setattr("proponent.attribution.embedding.joint.BLOCK", 8)
    path = tiny.project(tmp_path, **KINDS["ekfac"])
    monkeypatch.setattr("proponent.rebuild.joint_stage.sample_size", lambda *_: 28)
    interrupt(path, monkeypatch, "basis")
    monkeypatch.setattr("proponent.rebuild.joint_stage.sample_size", lambda *_: 36)
    check_same(build(path), build(path, tmp_path / "fresh"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_size_changes_nothing(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_ON_CPU", 16)  # so that 40 examples are several blocks
    path = tiny.project(tmp_path, **KINDS[kind])
    expected = build(path)
    for size in (1, 20, 100):
        check_same(build(path, tmp_path / str(size), batch_size=size), expected)


class Scattered(InProcess):
    """Computes chunks backwards, each as a worker does that has just come: from what was sent and what is stored."""

    def run(
        self, context: RebuildContext, stage: str, task: Task, chunks: Mapping[str, Sequence[int]]
    ) -> Iterator[str]:
        sent = pickle.dumps(task)
        for name in reversed(chunks):
            context.workspace.save(name, pickle.loads(sent).prepare(context)(chunks[name]))
            yield name


@pytest.mark.parametrize("kind", KINDS)
def test_who_computes_which_chunk_changes_nothing(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CHUNK", 7)
    path = tiny.project(tmp_path, **KINDS[kind])
    check_same(build(path, tmp_path / "scattered", executor=Scattered()), build(path))


@pytest.mark.parametrize(("asked", "flag"), [((2, 0.0), "--workers has value 2"), ((0, 0.5), "--gpus-per-worker")])
def test_workers_without_a_cluster_are_refused(asked: tuple[int, float], flag: str) -> None:
    with pytest.raises(SpecError, match=f"{flag}.*needs --ray"):
        executor_at(None, *asked)


def test_large_sums_have_few_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie on disk, and travel, until they are added."""
    monkeypatch.setattr(batching, "CHUNK", 1)
    context = a_context(tiny.project(tmp_path), tmp_path / "work")
    for numbers, parts in ((1, 24), (1 << 25, 12), (1 << 40, 8)):
        names = context.parts("ones", Ones(), range(24), numbers)
        assert len(names) == parts
        assert context.total(names, ["sum"])["sum"].tolist() == [276.0]
        context.workspace.discard("ones")
    assert not context.workspace.has("ones-00000")


class Ones(Task):
    """The sum of the items."""

    def prepare(self, context: RebuildContext) -> Compute:
        return lambda items: {"sum": torch.tensor([float(sum(items))], dtype=torch.float64)}


def a_context(path: Path, work: Path) -> RebuildContext:
    classifier = load_classifier(load_spec(path))
    data = TrainingSet.open(classifier, classifier.spec.dataset)
    progress = StageProgress(quiet=True)
    return RebuildContext(classifier, classifier.find_layers(), data, Batching.of(8), Workspace(work, "k"), progress)


def test_a_batch_holds_whole_blocks_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    classifier = load_classifier(load_spec(path))
    data = TrainingSet.open(classifier, classifier.spec.dataset)
    sizes = Batching.of(8, 17)
    assert (sizes.block, sizes.read, sizes.count(30)) == (8, 24, 4)
    positions = list(range(39, 9, -1))
    blocks = list(sizes.blocks(data, positions))
    assert [len(block.labels) for block in blocks] == [8, 8, 8, 6]
    whole = data.batch(positions)
    for column in ("inputs", "labels", "keys"):
        assert torch.equal(torch.cat([getattr(block, column) for block in blocks]), getattr(whole, column))


def test_batches_fit_the_memory() -> None:
    assert [most_subspace(count) for count in (650, 106_122, 200_000, 23_000_000)] == [16384, 16384, 25000, 32768]
    cpu, gpu = torch.device("cpu"), torch.device("meta")
    assert block_size(8 << 30, 200_000, 60_000, cpu) == 64
    assert block_size(8 << 30, 200_000, 60_000, gpu) == 512
    assert block_size(8 << 30, 200_000, 10, cpu) == 10
    assert block_size(1 << 30, 16_000_000, 60_000, gpu) == 33
    assert block_size(1, 10**9, 60_000, cpu) == 1


# Nothing to explain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "ekfac"])
def test_hinge_loss_with_every_margin_kept_has_no_influence_and_no_neighbours(tmp_path: Path, kind: str) -> None:
    """All training gradients are zero: a search would find rows in arbitrary order."""
    path = tiny.project(
        tmp_path, loss="hinge", trained_loss="cross_entropy", weight_decay=1e-3, curvature={"kind": kind}
    )
    bundle = build(path)
    assert read_manifest(bundle).omitted_rows == 40
    explainer = Explainer.load(bundle)
    query = tiny.pictures(40)[0].float()[0, None] / 255
    for target in (Target(), Target(1)):
        [answer] = explainer.explain([query], [ExplainOptions(target=target)])
        assert isinstance(answer, Explanation)
        assert all(not result.proponents and not result.opponents for result in answer.results)
        assert NoticeCode.ZERO_INFLUENCE in [notice.code for notice in answer.notices]


def test_hinge_loss_with_broken_margins_explains_by_those_alone(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, loss="hinge", trained_loss="cross_entropy", weight_decay=0.1, expected_accuracy=0)
    with pytest.warns(NotStationaryWarning):
        bundle = build(path)
    rows = Rows.of(bundle)
    active = int((rows.norms > 0).sum())
    assert 0 < active < 40
    assert read_manifest(bundle).omitted_rows == 40 - active
    [answer] = Explainer.load(bundle).explain(tiny.inputs(1), [ExplainOptions(top_k=40, target=Target(1))])
    assert isinstance(answer, Explanation)
    for result in answer.results:
        shown = [*result.proponents, *result.opponents]
        assert 0 < len(shown) <= active
        assert all(float(rows.norms[int(i.example_id.removeprefix("toy/"))]) > 0 for i in shown)


def test_rows_that_all_lack_a_direction_are_warned_of(tmp_path: Path) -> None:
    """Gradients that are left, but smaller than any curvature can tell."""
    path = tiny.project(tmp_path, curvature={"kind": "ekfac"})
    sure = {key: value * 40 for key, value in load_file(tmp_path / "weights.safetensors").items()}
    save_file(sure, tmp_path / "weights.safetensors")
    with (
        pytest.warns(NotStationaryWarning),
        pytest.warns(OmittedWarning, match="no training example has a direction"),
    ):
        assert read_manifest(build(path)).omitted_rows == 40


def test_damping_below_what_single_precision_resolves_is_warned_of(tmp_path: Path) -> None:
    path = tiny.project(tmp_path, curvature={"kind": "ekfac", "damping": 1e-8})
    with pytest.warns(SmallDampingWarning, match="damping 1e-08"):
        build(path)


def test_curvature_of_nothing_is_refused_where_there_are_gradients(tmp_path: Path) -> None:
    curvature = {"kind": "ekfac", "fisher": "ggn"}
    path = tiny.project(
        tmp_path,
        loss="hinge",
        trained_loss="cross_entropy",
        weight_decay=0.1,
        expected_accuracy=0,
        curvature=curvature,
    )
    refused(path, CurvatureError, "curvature of every layer is zero .*'hinge'.*'ggn'")


@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
def test_a_model_that_is_sure_of_everything_keeps_its_directions(tmp_path: Path, kind: str) -> None:
    """Its curvature is far below what single precision holds."""
    path = tiny.project(tmp_path, curvature={"kind": kind})
    sure = {key: value * 8 for key, value in load_file(tmp_path / "weights.safetensors").items()}
    save_file(sure, tmp_path / "weights.safetensors")
    with pytest.warns(NotStationaryWarning):
        bundle = build(path)
    rows = Rows.of(bundle)
    assert float(rows.scales["norms"].median()) < 1e-6
    assert read_manifest(bundle).omitted_rows == 0 and read_manifest(bundle).kept_energy > 0.5
    assert all(bool((value > 0).all()) for name, value in rows.scales.items() if name != "directed")


def test_the_energy_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tiny.project(
        tmp_path,
        loss="hinge",
        trained_loss="cross_entropy",
        weight_decay=1e-3,
        curvature={"kind": "exact", "energy": 0.9},
    )
    assert refused(path, CurvatureError, "every training gradient is zero").reason == "ZERO_GRADIENTS"
