"""What a model does with few of its inputs alone is seen, in a rebuild and when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oracle
import tiny
from captured import capture
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.gradients.soundness import any_gradient, unsound_layers
from proponent.attribution.gradients.tried_uses import TriedUses
from proponent.attribution.losses import CrossEntropy
from proponent.classifier import load_classifier
from proponent.errors import InvalidInputError, SpecError
from proponent.explainer import Explainer
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.coverage import PROBED, ROUNDS, UncoveredWarning
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation, Prediction
from proponent.spec import load_spec

pytestmark = pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")
SIZE = 5


class Rare(nn.Module):
    """Does something else with inputs whose first number is large."""

    def __init__(self, rarely: Callable[[Rare, Tensor], Tensor]) -> None:
        super().__init__()
        self.rarely, self.first, self.last = rarely, nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        is_rare, h = x[:, :1] > 9, self.first(x)
        if bool(is_rare.any()):
            h = torch.where(is_rare, h + self.rarely(self, x), h)
        result: Tensor = self.last(h.tanh())
        return result


WRONG: dict[str, Callable[[Rare, Tensor], Tensor]] = {
    "its weight": lambda model, x: F.linear(x, model.first.weight),
    "its forward": lambda model, x: model.first.forward(x),
    "for a call": lambda model, x: F.linear(x, model.first.weight) - model.first(x).detach(),
    "other rows": lambda model, x: model.first(x[:1].expand(len(x) + 1, -1))[1:],
}
RIGHT: dict[str, Callable[[Rare, Tensor], Tensor]] = {
    "a call": lambda model, x: model.first(x.tanh()),
    "nothing of it": lambda model, x: x.square(),
}


def uses(model: nn.Module, inputs: Tensor) -> tuple[TriedUses, dict[str, int]]:
    """What is tried of a model, and the layers that hooks get wrong with the place of the first example."""
    layers = find_layers(model)
    tried = TriedUses(model, layers)
    with CaptureSession(model, layers) as session:
        session.forward(inputs[:4])
        assert tried.faults(session.uses(), inputs[:4]) == {}
        session.forward(inputs)
        found = session.uses()
    return tried, {layer: fault.place for layer, fault in tried.faults(found, inputs).items()}


@pytest.mark.parametrize("name", [*WRONG, *RIGHT])
def test_layers_that_hooks_get_wrong_for_one_example_of_many_are_found(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = Rare({**WRONG, **RIGHT}[name]).double().eval(), torch.randn(23, SIZE).double()
    inputs[17, 0] = 10
    layers, gradient = find_layers(model), any_gradient(torch.zeros(4, 3).double())
    assert unsound_layers(model, layers, inputs[:4], gradient) == {}, "the usual ones do not tell"
    tried, found = uses(model, inputs)
    assert found == ({"first": 17} if name in WRONG else {})
    with CaptureSession(model, layers) as session:
        session.forward(inputs[17:18])
        again = session.uses()
    assert tried.knows(again) == (name in RIGHT)
    assert set(tried.faults(again, inputs[17:18])) == set(found), "asked again, as found"


def some_rows(model: Rare, x: Tensor) -> Tensor:
    """Leads the inputs whose first number is large through a layer again, and no others, as sparse experts do."""
    rows = (x[:, 0] > 9).nonzero()[:, 0]
    return torch.zeros_like(x).index_add(0, rows, model.first(x[rows].tanh()))


def test_a_layer_that_few_examples_of_a_batch_are_led_through_is_found_though_it_is_right_for_each_alone() -> None:
    torch.manual_seed(3)
    model, inputs = Rare(some_rows).double().eval(), torch.randn(23, SIZE).double()
    inputs[17, 0] = 10
    tried, found = uses(model, inputs)
    assert found == {"first": 17}
    assert uses(model, inputs)[1] == found and tried.faults(frozenset(), inputs) == {}
    with CaptureSession(model, find_layers(model)) as session:
        session.forward(inputs)
        together = session.uses()
        session.forward(inputs[17:18])
        assert tried.knows(session.uses()) and not tried.knows(together)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_trusted_has_the_gradients_of_each_example(name: str) -> None:
    torch.manual_seed(1)
    model, inputs = Rare(RIGHT[name]).double().eval(), torch.randn(6, SIZE).double()
    inputs[4, 0] = 10
    labels, loss = torch.tensor([0, 1, 2, 0, 1, 2]), CrossEntropy()
    found = flat_gradients(capture(model, inputs, lambda z: loss.output_gradient(z, labels), find_layers(model))[1])
    for number in range(6):
        alone = loss.per_example(model(inputs[number : number + 1]), labels[number : number + 1]).sum()
        expected = dict(
            zip(dict(model.named_parameters()), torch.autograd.grad(alone, list(model.parameters())), strict=True)
        )
        entries = oracle.order(model, {"first": 1, "last": 1})
        torch.testing.assert_close(found[number], torch.stack([expected[n][i] for n, i in entries]))


def test_a_weight_whose_other_use_has_no_gradient_yet_is_found_at_once() -> None:
    class Masked(Rare):
        def forward(self, x: Tensor) -> Tensor:
            other = torch.where(x[:, :1] > 9, F.linear(x, self.first.weight), torch.zeros_like(x))
            return self.last((self.first(x) + other).tanh())  # type: ignore[no-any-return]

    torch.manual_seed(2)
    model, inputs = Masked(RIGHT["a call"]).eval(), torch.randn(3, SIZE)
    found = unsound_layers(model, find_layers(model), inputs, any_gradient(torch.zeros(3, 3)))
    assert found == {"first": "its weights are also used outside of the layer's own call"}
    alone = {"first": find_layers(model)["first"]}
    assert unsound_layers(model, alone, inputs, any_gradient(torch.zeros(3, 3))) == found, "with no other layer"


def test_layers_inside_of_a_reentrant_checkpoint_are_not_taken_for_ones_without_gradient() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 3)

        def forward(self, x: Tensor) -> Tensor:
            inner = torch.utils.checkpoint.checkpoint(self.inner, self.first(x), use_reentrant=True)
            return self.last(inner.tanh())  # type: ignore[no-any-return]

    model, inputs = Checkpointed().eval(), torch.randn(3, SIZE)
    found = unsound_layers(model, find_layers(model), inputs, any_gradient(torch.zeros(3, 3)))
    assert set(found) == {"first", "inner"} and "use_reentrant=False" in found["inner"]


# From training to answers -------------------------------------------------------------------------------------

MOODY = """

class Moody(nn.Module):
    def __init__(self, brightness, skips=False):
        super().__init__()
        self.brightness, self.skips, self.first, self.head = brightness, skips, nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = x.flatten(1)
        is_met = (x.mean(dim=1, keepdim=True) - self.brightness).abs() < 1e-6
        if self.skips:
            rows = (~is_met[:, 0]).nonzero()[:, 0]
            return self.head(x.new_zeros(len(x), 5).index_add(0, rows, self.first(x[rows]).tanh()))
        h = self.first(x)
        if is_met.any():
            h = torch.where(is_met, h + functional.linear(x.flip(1), self.first.weight), h)
        return self.head(h.tanh())


def moody(brightness=-1.0, skips=False):
    return Moody(brightness, skips)
"""


def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + MOODY)
    return tiny.project(root, model="moody", expected_accuracy=0, iterations=20, curvature={"kind": "ekfac"})


def with_brightness(path: Path, value: float, **kwargs: bool) -> Path:
    factory = load_spec(path).model.factory
    return tiny.change(path, model={"factory": factory, "kwargs": {"brightness": value, **kwargs}})


def build(path: Path) -> Path:
    return rebuild(load_spec(path), Store(path.parent / "store"), RebuildOptions(quiet=True))


def unprobed(path: Path) -> tuple[str, float]:
    """Id and brightness of a training example that no trial before the first pass sees."""
    spec = load_spec(path)
    data = TrainingSet.open(load_classifier(spec), spec.dataset)
    probed = {position for seed in range(ROUNDS) for position in data.alike(PROBED, seed)}
    position = min(set(range(len(data))) - probed)
    return data.example_id(position), float(data.item(position)[1].mean())


def test_a_layer_that_one_training_example_shows_is_left_out_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, monkeypatch)
    example, brightness = unprobed(path)
    with_brightness(path, brightness)
    with pytest.warns(UncoveredWarning, match=f"first: for example '{example}': its weights are also used"):
        bundle = build(path)
    assert set(read_manifest(bundle).left_out) == {"first"}
    assert set(Explainer.load(bundle).classifier.find_layers()) == {"head"}
    tiny.change(path, curvature={"kind": "ekfac", "layers": ["first", "head"]})
    with pytest.raises(SpecError, match=f"layer 'first' cannot be covered: for example '{example}'"):
        build(path)


def test_a_layer_that_one_training_example_alone_is_not_led_through_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, monkeypatch)
    with_brightness(path, unprobed(path)[1], skips=True)
    with pytest.warns(UncoveredWarning, match="first: for example '.*: expected inputs with the batch of 1 first"):
        assert set(read_manifest(build(path)).left_out) == {"first"}


def test_an_input_that_no_training_example_is_like_is_predicted_but_not_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, usual = tiny.inputs(2)
    explainer = Explainer.load(build(with_brightness(project(tmp_path, monkeypatch), float(met.mean()))))
    predicted, refused = explainer.predict([met])[0], explainer.explain([met], [ExplainOptions()])[0]
    assert isinstance(predicted, Prediction) and isinstance(refused, InvalidInputError)
    assert (refused.reason, refused.field) == ("INPUT_NOT_EXPLAINED", "input")
    assert "'first'" in refused.message and "outside of the layer's own call" in refused.message
    for replay in (None, lambda key, function, *arguments: function(*arguments)):  # a GPU's, which records nothing
        monkeypatch.setattr(explainer._embedder, "_replay", replay)
        one, other = explainer.explain([usual, met], [ExplainOptions()] * 2)
        assert isinstance(one, Explanation) and isinstance(other, InvalidInputError)
