"""Outputs that are probabilities where the loss takes scores: refused, unless the spec says that they are scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from proponent.attribution.losses.outputs import look_like_probabilities
from proponent.classifier import load_classifier
from proponent.errors import SpecError
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation
from proponent.spec import load_spec

MORE = """

def softmax():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Softmax(1))


def log_softmax():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.LogSoftmax(1))


def sigmoid():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.Sigmoid())


def barely_trained():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 1))


class In(nn.Sequential):
    def __init__(self, dtype):
        super().__init__(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3))
        self.dtype = getattr(torch, dtype)

    def forward(self, x):
        return super().forward(x).to(self.dtype)


def outputs_in(dtype="float32"):
    return In(dtype)


class Undefined(In):
    # Has no outputs for pictures as bright as one.

    def __init__(self, brightness):
        super().__init__("float32")
        self.brightness = brightness

    def forward(self, x):
        met = (x.mean(dim=(1, 2, 3)) - self.brightness).abs() < 1e-6
        return super().forward(x).masked_fill(met[:, None], float("nan"))


def undefined(brightness=-1.0):
    return Undefined(brightness)


class Binary(Tensors):
    def __getitem__(self, position):
        value, label = super().__getitem__(position)
        return value, int(label == 0)


def squared(outputs, labels):
    return (outputs.gather(1, labels[:, None])[:, 0] - 1).square()
"""
pytestmark = pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")


def project(root: Path, monkeypatch: pytest.MonkeyPatch, model: str, loss: str, **keys: object) -> Path:
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + MORE)
    binary = model in ("sigmoid", "barely_trained")
    path = tiny.project(
        root,
        model="logistic" if binary else model,
        dataset="Binary" if binary else "Images",
        expected_accuracy=0,
        curvature={"kind": "ekfac"},
        iterations=20,
    )
    module = load_spec(path).model.factory.partition(":")[0]
    if binary:
        torch.manual_seed(0)
        state = tiny.user_model(root, module, model).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, root / "weights.safetensors")
        keys = {**keys, "class_names": ["other", "bars"]}
    loss = f"{module}:{loss}" if loss == "squared" else loss
    return tiny.change(path, model={"factory": f"{module}:{model}"}, loss=loss, **keys)


def build(path: Path) -> Path:
    return rebuild(load_spec(path), Store(path.parent / "store"), RebuildOptions(quiet=True))


@pytest.mark.parametrize(
    ("model", "loss"),
    [("softmax", "cross_entropy"), ("softmax", "hinge"), ("softmax", "squared"), ("sigmoid", "bce")],
)
def test_probabilities_are_refused_where_scores_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, loss: str
) -> None:
    path = project(tmp_path, monkeypatch, model, loss)
    expected = rf"loss .*{loss} takes scores .*outputs of all 40 training examples .*outputs_are_scores: true"
    with pytest.raises(SpecError, match=expected) as caught:
        build(path)
    assert caught.value.field == "loss"


@pytest.mark.parametrize(("model", "loss"), [("softmax", "cross_entropy"), ("sigmoid", "bce")])
def test_a_spec_can_say_that_they_are_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, loss: str
) -> None:
    bundle = build(project(tmp_path, monkeypatch, model, loss, outputs_are_scores=True))
    assert Explainer.load(bundle).classifier.spec.outputs_are_scores


@pytest.mark.parametrize("loss", ["bce", "hinge"])
def test_scores_that_lie_within_0_and_1_by_chance_are_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    path = project(tmp_path, monkeypatch, "barely_trained", loss)
    weights = load_file(tmp_path / "weights.safetensors")
    state = {"1.weight": weights["1.weight"] / 50, "1.bias": torch.tensor([0.4])}
    save_file(state, tmp_path / "weights.safetensors")
    explainer = Explainer.load(build(path))
    outputs = explainer.classifier.model(torch.stack(tiny.inputs(8)))
    assert bool(look_like_probabilities(outputs).all())


@pytest.mark.parametrize("loss", ["cross_entropy", "nll"])
def test_log_probabilities_are_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    """Softmax of them is the probabilities again."""
    path = project(tmp_path, monkeypatch, "log_softmax", loss)
    [prediction] = Explainer.load(build(path)).predict(tiny.inputs(1))
    direct = tiny.user_model(tmp_path, load_spec(path).model.factory.partition(":")[0], "log_softmax")
    direct.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    expected = direct(tiny.inputs(1)[0][None]).exp()[0].tolist()
    assert prediction.probabilities == pytest.approx(expected, abs=1e-6)


def test_what_looks_like_probabilities() -> None:
    rows = torch.tensor([[0.2, 0.8], [0.5, 0.6], [-0.1, 1.1], [1.0, 0.0], [0.5005, 0.4999], [0.5, 0.49]])
    assert look_like_probabilities(rows).tolist() == [True, False, False, True, True, False]
    assert look_like_probabilities(torch.tensor([[0.2], [1.2], [1.0], [-0.1]])).tolist() == [True, False, True, False]
    assert look_like_probabilities(torch.tensor([0.2, 1.2])).tolist() == [True, False]
    for narrow in (torch.float16, torch.bfloat16):
        rows = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).softmax(1).to(narrow)
        assert bool(look_like_probabilities(rows).all())


@pytest.mark.parametrize(("kind", "dtype"), [("ekfac", "bfloat16"), ("exact", "float64")])
def test_outputs_in_another_precision_are_explained_as_those_in_single(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    """A model under autocast returns bfloat16, whose weights stay in single precision."""
    curvature = {"kind": kind, "damping": 0.5} | ({"embedding_size": 16} if kind == "ekfac" else {})
    path = project(tmp_path, monkeypatch, "outputs_in", "cross_entropy", curvature=curvature)
    scores = []
    for name in ("float32", dtype):
        factory = load_spec(path).model.factory
        build(tiny.change(path, model={"factory": factory, "kwargs": {"dtype": name}}))
        [found] = Explainer.load(Store(tmp_path / "store").current("toy")).explain(tiny.inputs(1), [ExplainOptions()])
        assert isinstance(found, Explanation)
        scores.append([one.score for one in found.results[0].proponents[:3]])
    assert scores[1] == pytest.approx(scores[0], rel=0.1 if dtype == "bfloat16" else 1e-2)


def test_an_example_without_outputs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project(tmp_path, monkeypatch, "undefined", "cross_entropy")
    spec = load_spec(path)
    brightness = float(TrainingSet.open(load_classifier(spec), spec.dataset).item(7)[1].mean())
    tiny.change(path, model={"factory": spec.model.factory, "kwargs": {"brightness": brightness}})
    with pytest.raises(SpecError, match="the model's outputs for example 'toy/7' are NaN or infinite") as error:
        build(path)
    assert error.value.field == "model"
