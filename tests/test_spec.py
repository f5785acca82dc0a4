"""explain.yaml: a wrong key says which, its value and what was expected; a user's files work where they lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from proponent.classifier import load_classifier, pick_device, read_weights, weights_digest
from proponent.datasets.transforms import pixels
from proponent.errors import NotFoundError, SpecError
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, dump_spec, load_spec, parse_spec

VALID: dict[str, Any] = {
    "name": "toy",
    "model": {"factory": "torch.nn:Linear", "kwargs": {"in_features": 4, "out_features": 2}},
    "weights": "weights.pt",
    "dataset": {"factory": "somewhere:train"},
    "class_names": ["cat", "dog"],
    "expected_accuracy": 0.9,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.project(tmp_path, count=12, iterations=5).parent


def spec_with(**keys: Any) -> ModelSpec:
    return parse_spec({**VALID, **keys}, "explain.yaml")


def test_a_valid_spec_gives_every_default() -> None:
    spec = spec_with()
    assert (spec.loss, spec.weight_decay, spec.device, spec.transform) == ("cross_entropy", 0.0, "auto", None)
    assert (spec.curvature.kind, spec.curvature.relative) == ("exact", False)
    assert spec_with(curvature={"kind": "ekfac"}).curvature.relative
    assert not spec_with(curvature={"kind": "ekfac", "damping_relative": False}).curvature.relative


def test_class_names_may_look_like_numbers_or_booleans() -> None:
    assert spec_with(class_names=[0, True, "x"]).class_names == ["0", "True", "x"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", "Not A Name", "pattern"),
        ("model", "resnet", "dictionary"),
        ("model.factory", "no colon", "pattern"),
        ("weights", 3, "string"),
        ("dataset.kwargs", [1], "dictionary"),
        ("held_out.factory", ":x", "pattern"),
        ("transform.factory", "x:", "pattern"),
        ("loss", "mse", "cross_entropy, nll, bce, hinge"),
        ("weight_decay", -0.5, "greater than or equal to 0"),
        ("weight_decay", float("nan"), ""),
        ("weight_decay", float("inf"), "finite"),
        ("class_names", ["one"], "at least 2"),
        ("class_names", "cat", "list"),
        ("expected_accuracy", 1.5, "less than or equal to 1"),
        ("expected_accuracy", "high", "number"),
        ("device", "tpu", "pattern"),
        ("device", "meta", "pattern"),
        ("training.factory", "train", "pattern"),
        ("curvature.kind", "diagonal", "'exact', 'ekfac' or 'kfac'"),
        ("curvature.damping", -1, "greater than or equal to 0"),
        ("curvature.damping", "automatic", "number"),
        ("curvature.damping", float("inf"), "finite"),
        ("curvature.energy", 0, "greater than 0"),
        ("curvature.energy", 1.1, "less than or equal to 1"),
        ("curvature.embedding_size", 0, "greater than 0"),
        ("curvature.subspace_size", 1.5, "integer"),
        ("curvature.second_damping", 0, "greater than 0"),
        ("curvature.fisher", "false", "'true', 'empirical' or 'ggn'"),
        ("curvature.draws", 0, "greater than 0"),
        ("curvature.layers", "head", "list"),
        ("curvature.fit_examples", 0, "greater than 0"),
        ("curvature.max_parameters", 0, "greater than 0"),
        ("curvature.seed", "x", "integer"),
    ],
)
def test_a_wrong_value_names_the_key_the_value_and_what_was_expected(key: str, value: Any, expected: str) -> None:
    section, _, inner = key.partition(".")
    filled = {"factory": "m:f"} if section in ("held_out", "transform", "training") else VALID.get(section, {})
    content = {section: {**filled, inner: value}} if inner else {section: value}
    with pytest.raises(SpecError) as caught:
        spec_with(**content)
    message = caught.value.message
    assert key in message and repr(value) in message and expected in message
    assert caught.value.field.startswith(key)
    assert caught.value.reason == "SPEC_INVALID"


@pytest.mark.parametrize("key", [key for key in VALID])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(SpecError, match=f"key '{key}' is missing"):
        parse_spec({name: value for name, value in VALID.items() if name != key}, "explain.yaml")


@pytest.mark.parametrize("content", [{"wieght_decay": 1}, {"curvature": {"dampign": 1}}])
def test_an_unknown_key_is_named_with_its_value(content: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"(wieght_decay|curvature\.dampign)' is unknown \(value 1\)"):
        spec_with(**content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("- a\n- b\n", "a mapping"), ("", "a mapping"), ("a: [1", "not valid YAML"), ("1: 2", "string")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "explain.yaml").write_text(text)
    with pytest.raises(SpecError, match=expected):
        load_spec(tmp_path / "explain.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "explain.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(tmp_path)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "explain.yaml").write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_spec(tmp_path)


def test_a_missing_file_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=str(tmp_path / "nothing.yaml")):
        load_spec(tmp_path / "nothing.yaml")
    with pytest.raises(NotFoundError, match=str(tmp_path / "explain.yaml")):
        load_spec(tmp_path)


def test_paths_are_relative_to_the_spec_wherever_one_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    spec = load_spec(Path(folder.name))
    monkeypatch.chdir("/")
    assert spec.weights_path == folder / "weights.safetensors"
    assert load_classifier(spec).class_names == tiny.CLASSES


@settings(deadline=None)
@given(
    wd=st.floats(0, 1e3),
    names=st.lists(st.text(min_size=1), min_size=2, max_size=5),
    kwargs=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
    damping=st.none() | st.floats(0, 10),
)
def test_a_dumped_spec_reads_back_the_same(
    wd: float, names: list[str], kwargs: dict[str, Any], damping: float | None
) -> None:
    spec = spec_with(
        weight_decay=wd,
        class_names=names,
        dataset={"factory": "m:f", "kwargs": kwargs},
        curvature={"damping": damping},
        root="/somewhere",
    )
    assert parse_spec(yaml.safe_load(dump_spec(spec)), "copy") == spec


def test_a_root_is_looked_up_beside_the_file(folder: Path) -> None:
    (folder / "specs").mkdir()
    content = yaml.safe_load((folder / "explain.yaml").read_text())
    (folder / "specs" / "explain.yaml").write_text(yaml.safe_dump({**content, "root": ".."}))
    assert (
        load_classifier(load_spec(folder / "specs")).weights_sha256
        == load_classifier(load_spec(folder)).weights_sha256
    )


def test_a_module_beside_the_spec_serves_without_touching_the_package(folder: Path) -> None:
    code = (
        "import sys; from proponent.spec import load_spec; from proponent.classifier import load_classifier;"
        "c = load_classifier(load_spec(sys.argv[1])); print(type(c.model).__name__, len(c.weights_sha256))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == ["Sequential", "64"], done.stderr


def test_two_projects_with_a_module_of_one_name_do_not_get_mixed_up(folder: Path, tmp_path: Path) -> None:
    module = load_spec(folder).model.factory.partition(":")[0]
    load_classifier(load_spec(folder))
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{module}.py").write_text("def logistic():\n    raise TypeError('the other one')\n")
    (other / "explain.yaml").write_text((folder / "explain.yaml").read_text())
    with pytest.raises(SpecError, match=f"{module}' was already imported from {folder / module}.py"):
        load_classifier(load_spec(other))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"model": {"factory": "no_such_module:x"}}, "key 'model.factory' has value 'no_such_module:x'"),
        ({"model": {"factory": "torch.nn:NoSuchLayer"}}, "NoSuchLayer"),
        ({"model": {"factory": "torch:__version__"}}, "expected a callable"),
        ({"model": {"factory": "torch.nn:Linear", "kwargs": {"widht": 3}}}, "key 'model.kwargs' has value"),
        ({"model": {"factory": "builtins:dict"}}, "it returned dict, expected a torch.nn.Module"),
        ({"model": {"factory": "scripted_model:made"}}, "it returned TorchScript, whose layers cannot be seen"),
        (
            {"model": {"factory": "parallel_model:made"}},
            "it returned DataParallel, which spreads a batch over devices",
        ),
        (
            {"model": {"factory": "torch.nn:LazyLinear", "kwargs": {"out_features": 2}}},
            "layer '' is a LazyLinear: give it",
        ),
        ({"transform": {"factory": "builtins:dict", "kwargs": {"a": 1}}}, "key 'transform"),
        ({"loss": "no_such_module:loss"}, "key 'loss'"),
        (
            {"model": {"factory": "torch.nn:Linear", "kwargs": {"in_features": -1, "out_features": 2}}},
            "key 'model.factory' has value 'torch.nn:Linear': it raised RuntimeError",
        ),
        (
            {"model": {"factory": "breaks:x"}},
            "key 'model.factory' has value 'breaks:x': cannot import it: ValueError",
        ),
    ],
)
def test_a_factory_that_cannot_be_called_is_named(folder: Path, keys: dict[str, Any], expected: str) -> None:
    (folder / "breaks.py").write_text("raise ValueError('of no use')\n")
    (folder / "parallel_model.py").write_text(
        "import torch\n\n\ndef made():\n    return torch.nn.DataParallel(torch.nn.Linear(2, 2))\n"
    )
    (folder / "scripted_model.py").write_text(
        "import torch\n\n\ndef made():\n    return torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))\n"
    )
    with pytest.raises(SpecError) as caught:
        load_classifier(load_spec(tiny.change(folder / "explain.yaml", **keys)))
    assert expected in caught.value.message


def test_a_dataset_must_be_map_style_and_hold_something(folder: Path) -> None:
    classifier = load_classifier(load_spec(folder))
    for dataset in (iter([1]), [], {}):
        with pytest.raises(SpecError, match=r"key 'dataset.factory': it returned \w+, expected a map-style dataset"):
            TrainingSet(dataset, classifier)


def test_a_loss_may_be_the_users_own(folder: Path) -> None:
    spec = load_spec(tiny.change(folder / "explain.yaml", loss="proponent.attribution.losses:get_loss"))
    assert load_classifier(spec).loss.name == "callable"


def test_the_transform_defaults_to_pixels_and_takes_a_bare_callable(folder: Path) -> None:
    assert load_classifier(load_spec(folder)).transform is pixels
    bare = {"factory": "proponent.datasets.transforms:pixels"}
    assert load_classifier(load_spec(tiny.change(folder / "explain.yaml", transform=bare))).transform is pixels


def state(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "weights.safetensors")


def test_weights_may_be_a_state_dict_and_have_the_same_digest(folder: Path) -> None:
    torch.save(state(folder), folder / "weights.pt")
    first = load_classifier(load_spec(folder))
    second = load_classifier(load_spec(tiny.change(folder / "explain.yaml", weights="weights.pt")))
    assert first.weights_sha256 == second.weights_sha256 == weights_digest(state(folder))
    assert not second.model.training


def test_weights_given_at_loading_override_the_specs(folder: Path) -> None:
    changed = {name: value + 1 for name, value in state(folder).items()}
    save_file(changed, folder / "other.safetensors")
    found = load_classifier(load_spec(folder), weights=folder / "other.safetensors")
    assert found.weights_sha256 == weights_digest(changed)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["PICKLE_RAN"],)


def test_a_pickle_with_code_is_refused_and_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICKLE_RAN", str(folder / "ran"))
    torch.save({"a": Malicious()}, folder / "weights.pt")
    with pytest.raises(SpecError, match=r"weights.pt': cannot be read: UnpicklingError"):
        read_weights(folder / "weights.pt")
    assert not (folder / "ran").exists()


def test_a_whole_pickled_module_is_refused(folder: Path) -> None:
    torch.save(nn.Linear(2, 2), folder / "weights.pt")
    with pytest.raises(SpecError, match="cannot be read: UnpicklingError"):
        read_weights(folder / "weights.pt")


@pytest.mark.parametrize("content", [[1.0], {"epoch": 3}, torch.zeros(2)])
def test_weights_that_are_no_state_dict_say_what_they_are(folder: Path, content: Any) -> None:
    torch.save(content, folder / "weights.pt")
    with pytest.raises(SpecError, match=rf"holds a {type(content).__name__}, expected a state_dict of tensors"):
        read_weights(folder / "weights.pt")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x02."])
def test_unreadable_weights_name_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError, match=rf"key 'weights' has value '.*{name}': cannot be read"):
        read_weights(tmp_path / name)


def test_missing_weights_are_named_in_full(folder: Path) -> None:
    spec = load_spec(tiny.change(folder / "explain.yaml", weights="lost.safetensors"))
    with pytest.raises(NotFoundError, match=str(folder / "lost.safetensors")) as caught:
        load_classifier(spec)
    assert caught.value.reason == "WEIGHTS_NOT_FOUND"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: {**s, "1.weight": s["1.weight"][:, :5]}, "size mismatch for 1.weight"),
        (lambda s: {"1.weight": s["1.weight"]}, "Missing key"),
        (lambda s: {**s, "2.weight": s["1.weight"]}, "Unexpected key"),
    ],
)
def test_weights_of_another_model_are_refused(folder: Path, change: Any, expected: str) -> None:
    save_file({k: v.clone().contiguous() for k, v in change(state(folder)).items()}, folder / "other.safetensors")
    with pytest.raises(SpecError, match=f"(?s)does not fit the model.*{expected}"):
        load_classifier(load_spec(folder), weights=folder / "other.safetensors")


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 3), max_size=2), min_size=1, max_size=3))
def test_the_digest_depends_on_names_shapes_types_and_values_alone(shapes: dict[str, list[int]]) -> None:
    tensors = {name: torch.arange(float(torch.Size(shape).numel())).reshape(shape) for name, shape in shapes.items()}
    digest = weights_digest(tensors)
    assert weights_digest(dict(reversed(tensors.items()))) == digest
    first = next(iter(tensors))
    for other in (tensors[first] + 1, tensors[first].double(), tensors[first][None]):
        if not torch.equal(other, tensors[first]) or other.dtype != tensors[first].dtype:
            assert weights_digest({**tensors, first: other}) != digest
    assert weights_digest({**tensors, first + "x": torch.zeros(1)}) != digest


@pytest.mark.parametrize(("name", "kind"), [("cuda:0", "CUDA"), ("mps", "MPS")])
def test_a_device_that_is_not_there_is_refused(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SpecError, match=f"key 'device' has value '{name}': no {kind} device is available"):
        pick_device(name)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
