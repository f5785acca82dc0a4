"""A bundle keeps held-out inputs whole, with the lists that Explain gives for them, and forgets what is forgotten."""

from __future__ import annotations

import io
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import tiny
from proponent.datasets import digits
from proponent.errors import CorruptBundleError, SpecError
from proponent.explainer import Explainer
from proponent.index import bundle as files
from proponent.index.bundle import read_manifest, verify_files, write_manifest
from proponent.index.forgetting import forget
from proponent.index.samples import DEPTH, Sample, Samples, StoredInfluence, write_samples
from proponent.index.store import Store
from proponent.inspection.verify import verify
from proponent.options import ExplainOptions, Measure, Side
from proponent.rebuild import samples_stage
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.workspace import Workspace
from proponent.results import Explanation
from proponent.spec import load_spec, with_samples
from proponent.training.train_preset import train_preset
from proponent.worker.inputs import image_tensor, raw_tensor

MODELS: dict[str, dict[str, Any]] = {
    "exact": {"model": "logistic", "curvature": {"kind": "exact"}},
    "ekfac": {"model": "grouped", "curvature": {"kind": "ekfac", "embedding_size": 25}},
}
PREDICTED = [(measure, side) for measure in Measure for side in Side]


def build(path: Path, samples: int | None = None) -> Path:
    store = Store(path.parent / "store")
    return rebuild(with_samples(load_spec(path), samples), store, RebuildOptions(quiet=True))


def opened(bundle: Path) -> closing[Samples]:
    return closing(Samples.open(bundle / files.SAMPLES))


def as_sent(explainer: Explainer, sample: Sample) -> Tensor:
    """What the worker makes of a sample that a caller sends as it is."""
    if sample.shape:
        return raw_tensor(sample.shape, "float32", sample.input, explainer.signature)
    return image_tensor(sample.input, explainer.signature, explainer.classifier.transform)


def check_lists(bundle: Path, forgotten: frozenset[str] = frozenset()) -> int:
    """Compares every list of every sample with the answer to a call that sends the sample; returns their depth."""
    explainer = Explainer.load(bundle)
    with opened(bundle) as samples:
        lists = {measure: samples.lists(measure, forgotten) for measure in Measure}
        depth = min(found.depth for found in lists.values())
        for sample in samples:
            [answer] = explainer.explain([as_sent(explainer, sample)], [ExplainOptions(top_k=max(depth, 1))])
            assert isinstance(answer, Explanation)
            assert answer.prediction.class_id == sample.predicted_class_id
            for result in answer.results:
                for side in Side:
                    stored = lists[result.measure].of(sample.position)[side][:depth]
                    asked = getattr(result, side.value)[:depth]
                    assert [one.example_id for one in stored] == [one.example_id for one in asked]
                    scores = [one.score for one in asked]
                    rounding = 1e-5 * max(map(abs, scores), default=0)  # several are explained together
                    assert [one.score for one in stored] == pytest.approx(scores, rel=1e-5, abs=rounding)
    return depth


# Lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_lists_are_those_of_explain(tmp_path: Path, kind: str) -> None:
    path = tiny.hold_out(tiny.project(tmp_path, count=80, **MODELS[kind]), 20)
    bundle = build(path)
    assert read_manifest(bundle).samples == 20
    assert check_lists(bundle) == DEPTH
    with opened(bundle) as samples:
        lengths = {len(one) for m in Measure for s in samples for one in samples.lists(m).of(s.position).values()}
    assert max(lengths) == DEPTH and min(lengths) < DEPTH, "no list is cut off, or all are"


def test_lists_of_digits_are_those_of_explain(tmp_path: Path) -> None:
    path = train_preset("digits", tmp_path / "digits", limit=300).spec
    bundle = build(path)
    assert check_lists(bundle) == DEPTH
    held_out = digits.test()
    known = {held_out.example_id(i): held_out[i] for i in range(len(held_out))}
    with opened(bundle) as samples:
        assert len(samples) == read_manifest(bundle).samples == 200
        for sample in samples:
            image, label = known[sample.sample_id]
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.input))), np.asarray(image))
            assert (sample.class_id, sample.shape) == (label, ())


# What is kept ------------------------------------------------------------------------------------------------


def test_inputs_are_whole_and_say_nothing_beside_themselves(tmp_path: Path) -> None:
    bundle = build(tiny.hold_out(tiny.project(tmp_path), 5))
    stored, labels = tiny.pictures(5, seed=1)
    with opened(bundle) as samples:
        for sample, picture, label in zip(samples, stored, labels.tolist(), strict=True):
            image = Image.open(io.BytesIO(sample.input))
            assert np.array_equal(np.asarray(image), picture.numpy()) and image.info == {}
            assert (sample.sample_id, sample.class_id) == (f"held/{sample.position}", label)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.thumbnail))), picture.numpy())
    assert b"where it was taken" not in (bundle / files.SAMPLES).read_bytes()


def test_tensors_and_pictures_that_the_service_does_not_take_are_kept_as_tensors(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    wanted = tiny.pictures(4, seed=1)[0].float()[:, None] / 255
    for dataset, kwargs in (("HeldOutTensors", {}), ("HeldOut", {"mode": "F"}), ("HeldOut", {"mode": "LA"})):
        if kwargs:  # a transform that reads any mode
            tiny.change(
                path,
                transform={
                    "factory": "proponent.datasets.transforms:converted",
                    "kwargs": {"mode": "L", "size": [6, 6]},
                },
            )
        bundle = build(tiny.hold_out(path, 4, dataset, **kwargs))
        with opened(bundle) as samples:
            for sample in samples:
                assert sample.shape == (1, 6, 6)
                values = np.frombuffer(sample.input, "<f4").reshape(sample.shape)
                assert np.array_equal(values, wanted[sample.position].numpy())
        assert check_lists(bundle) == DEPTH


def test_there_are_none_without_a_held_out_set_or_a_wish_for_some(tmp_path: Path) -> None:
    path = tiny.project(tmp_path)
    held_out = tiny.hold_out(path, 4)
    bundles = [build(held_out, 0), build(tiny.change(path, held_out=None))]
    for bundle in bundles:
        assert read_manifest(bundle).samples == 0 and not (bundle / files.SAMPLES).exists()


def test_nothing_else_in_a_bundle_depends_on_samples(tmp_path: Path) -> None:
    path = tiny.hold_out(tiny.project(tmp_path, **MODELS["ekfac"]), 12)
    with_all, with_some, without = (read_manifest(build(path, count)).files for count in (None, 5, 0))
    for name in set(files.FILES) - {files.SPEC}:
        assert with_all[name] == with_some[name] == without[name]
    with opened(build(path, 5)) as samples:
        chosen = [sample.sample_id for sample in samples]
    assert len(set(chosen)) == 5 and chosen == sorted(chosen, key=lambda name: int(name.split("/")[1]))
    assert chosen != [f"held/{n}" for n in range(5)], "not a sample, but the first ones"


@pytest.mark.parametrize(
    ("dataset", "change", "said"),
    [
        ("HeldOut", "label", "'held/2'.* label 7, expected 0..2"),
        ("HeldOut", "decode", "example 2 cannot be read.*no such picture"),
        ("HeldOutTensors", "value", "'held/2'.*NaN"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, dataset: str, change: str, said: str) -> None:
    path = tiny.hold_out(tiny.project(tmp_path), 4, dataset, change=change)
    with pytest.raises(SpecError, match=said) as caught:
        build(path)
    assert caught.value.field == "held_out"


# Resumption and damage ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill inside this process."""


@pytest.mark.parametrize("kind", MODELS)
def test_a_rebuild_killed_among_samples_resumes_to_the_same_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples_stage, "CHUNK", 2)
    path = tiny.hold_out(tiny.project(tmp_path, count=20, **MODELS[kind]), 5)
    saved: list[str] = []
    save, die_at = Workspace.save, "00001"

    def saving(self: Workspace, name: str, tensors: Any) -> None:
        if name.startswith("samples-") and name.endswith(die_at):
            raise Killed
        saved.append(name)
        save(self, name, tensors)

    monkeypatch.setattr(Workspace, "save", saving)
    with pytest.raises(Killed):
        build(path)
    assert saved[-1].endswith("00000") and not list((tmp_path / "store").glob("*/bundles/*"))
    saved.clear()
    die_at = "never"
    resumed = build(path)
    reading = ["reading-00000"]  # again by each run, as data may have changed
    assert [name.split("-")[0] + name[-6:] for name in saved] == [*reading, "samples-00001", "samples-00002"]
    whole = rebuild(load_spec(path), Store(tmp_path / "whole"), RebuildOptions(quiet=True))
    assert read_manifest(resumed).files == read_manifest(whole).files


def test_lists_of_other_inputs_are_not_taken_for_those_of_these(tmp_path: Path) -> None:
    """A killed rebuild has explained samples; the held-out set has other pictures of the same names now."""
    path = tiny.hold_out(tiny.project(tmp_path), 4)
    work = tmp_path / "store" / "toy" / "work"
    first = build(path)
    tiny.save_file(
        {"pixels": tiny.pictures(4, seed=9)[0], "labels": tiny.pictures(4, seed=9)[1]},
        tmp_path / "held_out.safetensors",
    )
    assert not work.exists()
    second = build(path)
    assert read_manifest(first).files[files.ROWS] == read_manifest(second).files[files.ROWS]
    check_lists(second)


def test_damage_and_contradictions_are_found(tmp_path: Path) -> None:
    bundle = build(tiny.hold_out(tiny.project(tmp_path), 4))
    assert verify(bundle).whole
    path = bundle / files.SAMPLES
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [problem.file for problem in verify(bundle).problems] == [files.SAMPLES]
    listed = {m: {side: [StoredInfluence("nobody", 1.0)] for side in Side} for m in Measure}
    path.unlink()
    write_samples(path, [(Sample(0, "held/0", 0, 0, "h"), listed)])
    other = bundle.with_name("other")
    shutil.copytree(bundle, other)
    write_manifest(other, read_manifest(bundle))
    said = [problem.message for problem in verify(other).problems]
    assert said == ["there are 1 samples, expected 4", "a list names 'nobody', which the catalog lacks"]
    path.unlink()
    with pytest.raises(CorruptBundleError, match=r"samples\.sqlite"):
        verify_files(bundle, read_manifest(bundle))
    for content in (b"", b"no such file", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CorruptBundleError, match=r"samples\.sqlite"), opened(bundle) as samples:
            list(samples.page(10)), samples.lists(Measure.INFLUENCE), samples.get("held/0")


# Forgetting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_forgotten_examples_leave_the_lists_and_the_file(tmp_path: Path, kind: str) -> None:
    path = tiny.hold_out(tiny.project(tmp_path, count=120, **MODELS[kind]), 6)
    bundle = build(path)
    with opened(bundle) as samples:
        gone = frozenset(one.example_id for one in samples.lists(Measure.INFLUENCE).of(0)[Side.PROPONENTS][:3])
    store = Store(tmp_path / "store")
    forget(store, "toy", sorted(gone))
    depth = check_lists(bundle, gone)
    assert DEPTH - 3 <= depth < DEPTH
    compacted = store.directory("toy") / "bundles" / forget(store, "toy", [], compact=True).bundles[0].after
    assert check_lists(compacted) == depth
    assert read_manifest(compacted).samples == 6 and verify(compacted).whole
    content = (compacted / files.SAMPLES).read_bytes()
    assert not any(f"{name}".encode() in _texts(content) for name in gone)


def _texts(content: bytes) -> set[bytes]:
    """Ids of examples in a file; ``toy/1`` stands in no ``toy/11``."""
    import re

    return set(re.findall(rb"toy/\d+", content))


def test_a_list_is_whole_only_as_far_as_it_was_kept(tmp_path: Path) -> None:
    """Of 3 examples kept, one forgotten: the list of the sample that names it goes to 2; a shorter one has no end."""
    names = [StoredInfluence(f"e{n}", 3.0 - n) for n in range(3)]
    lists = {m: {Side.PROPONENTS: names, Side.OPPONENTS: [StoredInfluence("e9", -1.0)]} for m in Measure}
    one = Sample(0, "s", 0, 0, "h", input=b"png")
    write_samples(tmp_path / "s.sqlite", [(one, lists), (replace(one, position=1, sample_id="t"), {})], depth=3)
    with closing(Samples.open(tmp_path / "s.sqlite")) as samples:
        assert samples.lists(Measure.INFLUENCE).depth == 3
        assert samples.lists(Measure.INFLUENCE, frozenset({"e9"})).depth == 3
        found = samples.lists(Measure.INFLUENCE, frozenset({"e0", "e9"}))
        assert found.depth == 2 and [x.example_id for x in found.of(0)[Side.PROPONENTS]] == ["e1", "e2"]
        assert found.of(0)[Side.OPPONENTS] == [] and found.of(1)[Side.PROPONENTS] == ()
