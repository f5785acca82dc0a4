"""Models whose gradients hooks would get wrong are refused, and models that only look like it are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import oracle
from captured import capture
from proponent.attribution.curvature.exact import exact_hessian
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.gradients.soundness import unsound_layers
from proponent.attribution.losses import CrossEntropy
from proponent.errors import SpecError

LOSS = CrossEntropy()
SIZE = 5


class Model(nn.Module):
    """Two layers between which a function of the model and the first's outputs is applied."""

    def __init__(self, between: Callable[[Model, Tensor], Tensor], width: int = SIZE) -> None:
        super().__init__()
        self.between = between
        self.first, self.last = nn.Linear(width, SIZE), nn.Linear(SIZE, 3)
        self.moving = nn.BatchNorm1d(SIZE)
        self.momentary = nn.BatchNorm1d(SIZE, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.between(self, self.first(x)))
        return result


def tried(model: nn.Module, inputs: Tensor) -> list[str]:
    """Misused layers, if examples are their own."""
    model.eval()
    with torch.no_grad():
        gradient = torch.randn(model(inputs).shape, generator=torch.Generator().manual_seed(0))
    layers = find_layers(model)
    return list(unsound_layers(model, layers, inputs, gradient))


def shuffled(_: Model, h: Tensor) -> Tensor:
    return h.flip(0).relu()


class Unshuffled(Model):
    """Gives outputs in the right order again, so that they do not tell."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(0)


class Tokens(nn.Module):
    """Puts the tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.inner(x.transpose(0, 1)).relu().mean(dim=0))
        return result


RIGHT: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "plain": lambda model, h: h.relu(),
    "in place": lambda model, h: h.relu_(),
    "running statistics": lambda model, h: model.moving(h),
    "normalised by example": lambda model, h: F.layer_norm(h, (SIZE,)),
    "called twice": lambda model, h: model.first(h.relu()),
    "checkpoint": lambda model, h: checkpoint(lambda x: model.first(x).relu(), h, use_reentrant=False),
    "not used": lambda model, h: h.detach(),
}


class Changing(Model):
    """Changes its inputs in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


MISUSED: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "tied": lambda model, h: F.linear(h, model.first.weight.T),
    "called as a method": lambda model, h: model.first.forward(h),
}
MIXED: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "batch statistics": lambda model, h: model.momentary(h[:, :, None].expand(-1, -1, 2)).mean(dim=2),
    "random": lambda model, h: F.dropout(h, 0.5, training=True),
    "other rows": shuffled,
    "inner rows only": lambda model, h: torch.cat([h[:1], h[1:-1].flip(0), h[-1:]]) if len(h) > 2 else h,
}


@pytest.mark.parametrize("name", RIGHT)
def test_models_of_every_kind_pass(name: str) -> None:
    torch.manual_seed(1)
    assert tried(Model(RIGHT[name]), torch.randn(6, SIZE)) == []
    assert tried(Model(RIGHT[name]), torch.randn(1, SIZE)) == []


def test_a_model_that_changes_its_inputs_in_place_passes() -> None:
    torch.manual_seed(18)
    inputs = torch.randn(6, SIZE)
    before = inputs.clone()
    layers = find_layers(model := Changing(RIGHT["plain"]).eval())
    assert unsound_layers(model, layers, inputs, torch.randn(6, 3)) == {}
    torch.testing.assert_close(inputs, before, rtol=0, atol=0)


def test_a_model_that_takes_the_batch_away_from_one_example_is_told_so() -> None:
    class Squeezed(Model):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).squeeze()

    with pytest.raises(
        SpecError, match=r"outputs for a batch of 1 have shape \[3\], expected \[1, 3\]: does a squeeze"
    ):
        tried(Squeezed(RIGHT["plain"]), torch.randn(6, SIZE))


@pytest.mark.parametrize("name", MISUSED)
def test_layers_used_outside_of_their_call_are_found(name: str) -> None:
    torch.manual_seed(2)
    assert tried(Model(MISUSED[name]), torch.randn(6, SIZE)) == ["first"]


@pytest.mark.parametrize("name", MIXED)
def test_examples_that_depend_on_their_batch_are_refused(name: str) -> None:
    torch.manual_seed(2)
    with pytest.raises(SpecError, match="the model's outputs for an example change by"):
        tried(Model(MIXED[name]), torch.randn(6, SIZE))


def test_one_output_that_depends_on_the_batch_is_enough() -> None:
    class Centred(Model):
        def forward(self, x: Tensor) -> Tensor:
            outputs = super().forward(x)
            return torch.cat([outputs[:, :2], outputs[:, 2:] - outputs[:, 2:].mean(dim=0)], dim=1)

    torch.manual_seed(9)
    with pytest.raises(SpecError, match="the model's outputs for an example change by"):
        tried(Centred(RIGHT["plain"]), torch.randn(6, SIZE))


def test_a_model_that_needs_a_batch_is_refused_in_these_words() -> None:
    torch.manual_seed(10)
    with pytest.raises(SpecError, match=r"fails on one example alone, of shape \[1, 5\].*ValueError: Expected more"):
        tried(Model(lambda model, h: model.momentary(h)), torch.randn(6, SIZE))


def test_rows_that_change_places_inside_are_found() -> None:
    torch.manual_seed(11)
    assert tried(Unshuffled(shuffled), torch.randn(6, SIZE)) == ["last"]


@pytest.mark.parametrize("descending", [False, True])
def test_rows_that_are_sorted_inside_are_found_in_whatever_order_they_come(descending: bool) -> None:
    class Sorted(Model):
        def forward(self, x: Tensor) -> Tensor:
            order = x[:, 0].argsort()
            result: Tensor = self.last(self.first(x[order]).tanh()[order.argsort()])
            return result

    torch.manual_seed(17)
    inputs = torch.randn(3, SIZE)
    inputs = inputs[inputs[:, 0].argsort(descending=descending)]
    assert tried(Sorted(RIGHT["plain"]), inputs) == ["first"]


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-3])
def test_rows_that_change_places_in_a_small_part_are_found(share: float) -> None:
    """The inverse of the curvature may make them large again."""

    class Aside(Model):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(x + share * self.first(x.flip(0)).tanh().flip(0))
            return result

    torch.manual_seed(16)
    assert tried(Aside(RIGHT["plain"]), torch.randn(6, SIZE)) == ["first"]


def test_tokens_that_pass_for_the_batch_are_found() -> None:
    assert tried(Tokens(), torch.randn(4, 4, SIZE)) == ["inner"]


class Biased(Model):
    """Adds what its first layer makes of a table of positions, which is no batch."""

    def __init__(self, rows: int) -> None:
        super().__init__(RIGHT["plain"])
        self.table = nn.Linear(2, SIZE)
        self.positions = torch.randn(rows, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table(self.positions).mean(dim=0))


class Overwritten(Model):
    """Writes over the inputs of its first layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        h = self.first(x).detach()
        x += 1
        result: Tensor = self.last(h.relu())
        return result


def through(model: Model, h: Tensor) -> Tensor:
    """A part of the model without a backward of its own, in a way that autograd refuses to look into."""
    return checkpoint(lambda x: model.first(x).relu(), h, use_reentrant=True)  # type: ignore[no-any-return]


def mapped(model: Model, h: Tensor) -> Tensor:
    """Examples one by one, as tensors of torch.func that a hook can do nothing with."""
    return torch.func.vmap(model.first)(h)


@pytest.mark.parametrize(
    ("between", "why"), [(through, "use_reentrant=False"), (mapped, "fails|not the batch|batch")]
)
def test_a_layer_whose_hooks_make_the_model_fail_is_found(
    between: Callable[[Model, Tensor], Tensor], why: str
) -> None:
    torch.manual_seed(15)
    model, inputs = Model(between).eval(), torch.randn(6, SIZE)
    found = unsound_layers(model, find_layers(model), inputs, torch.randn(6, 3))
    assert list(found) == ["first"] and re.search(why, found["first"])


@pytest.mark.parametrize("rows", [3, 6])
def test_a_layer_that_is_not_applied_to_the_batch_is_found(rows: int) -> None:
    torch.manual_seed(12)
    assert tried(Biased(rows), torch.randn(6, SIZE)) == ["table"]


def test_a_layer_whose_inputs_are_overwritten_is_found() -> None:
    torch.manual_seed(13)
    assert tried(Overwritten(RIGHT["plain"]), torch.randn(6, SIZE)) == ["first"]


def test_the_gradients_of_the_other_layers_are_right() -> None:
    torch.manual_seed(14)
    model, inputs, labels = Biased(3).double().eval(), torch.randn(6, SIZE).double(), torch.arange(6) % 3
    model.positions = model.positions.double()
    layers = {name: shape for name, shape in find_layers(model).items() if name != "table"}
    gradients = capture(model, inputs, lambda z: LOSS.output_gradient(z, labels), layers)[1]
    expected = oracle.per_example_gradients(model, LOSS.per_example, inputs, labels)
    found = oracle.flat(expected, oracle.order(model, dict.fromkeys(layers, 1)))
    torch.testing.assert_close(flat_gradients(gradients), found, rtol=1e-8, atol=1e-12)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    torch.manual_seed(8)
    model = Model(lambda model, h: (h.relu() * 0).sqrt())
    with pytest.raises(SpecError, match="layer 'first': the gradient of an example is not finite"):
        tried(model, torch.randn(6, SIZE))


def test_autocast_is_within_its_own_rounding() -> None:
    class Half(Model):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    torch.manual_seed(3)
    model = Half(RIGHT["plain"])
    assert tried(model, torch.randn(6, SIZE)) == []
    with CaptureSession(model, find_layers(model)) as session:
        gradients = session.backward(session.forward(torch.randn(6, SIZE)))
    assert flat_gradients(gradients).dtype == torch.float32


# What capture does about them -------------------------------------------------------------------------------


def hooked(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    with CaptureSession(model, find_layers(model, frozen=True)) as session:
        outputs = session.forward(inputs)
        return flat_gradients(session.backward(LOSS.output_gradient(outputs, labels)))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointed_layers_have_their_gradients(reentrant: bool, frozen: bool) -> None:
    def between(model: Model, h: Tensor) -> Tensor:
        return checkpoint(lambda x: model.first(x.relu()), h, use_reentrant=reentrant)  # type: ignore[no-any-return]

    torch.manual_seed(4)
    model, inputs, labels = Model(between).double().eval(), torch.randn(4, SIZE).double(), torch.tensor([0, 1, 2, 0])
    twin = Model(lambda m, h: m.first(h.relu())).double().eval()
    twin.load_state_dict(model.state_dict())
    model.requires_grad_(not frozen)
    if reentrant:
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            hooked(model, inputs, labels)
    else:
        torch.testing.assert_close(hooked(model, inputs, labels), hooked(twin, inputs, labels), rtol=1e-12, atol=0)


def test_a_compiled_model_that_ran_before_is_captured_all_the_same() -> None:
    torch.manual_seed(5)
    plain = Model(RIGHT["plain"]).double().eval()
    inputs, labels = torch.randn(4, SIZE).double(), torch.tensor([0, 1, 2, 0])
    expected = hooked(plain, inputs, labels)
    assert bool(expected.any())
    compiled = torch.compile(plain, backend="eager")
    compiled(inputs).sum().backward()
    torch.testing.assert_close(hooked(compiled, inputs, labels), expected, rtol=0, atol=0)
    plain.compile(backend="eager")
    plain(inputs).sum().backward()
    torch.testing.assert_close(hooked(plain, inputs, labels), expected, rtol=0, atol=0)


def test_a_backbone_in_inference_mode_has_no_gradient() -> None:
    class Backbone(Model):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                h = self.first(x).relu()
            result: Tensor = self.last(h.clone())
            return result

    torch.manual_seed(6)
    model, inputs, labels = Backbone(RIGHT["plain"]), torch.randn(4, SIZE), torch.tensor([0, 1, 2, 0])
    found = hooked(model, inputs, labels)
    covered = model.first.weight.numel() + model.first.bias.numel()
    assert not found[:, :covered].any() and bool(found[:, covered:].any(dim=1).all())


def test_the_hessian_of_a_linear_model_counts_what_a_users_hook_does() -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    handle = model[0].register_forward_hook(lambda module, args, output: output * 3)
    inputs, labels = torch.randn(8, 4).double(), torch.arange(8) % 3
    layers = find_layers(model)
    found = exact_hessian(model, LOSS, [(inputs, labels, labels)], layers)

    class Tripled(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 3 * self.inner(x)  # type: ignore[no-any-return]

    handle.remove()
    entries = oracle.order(Tripled(model), {"inner.0": 1})
    expected = oracle.objective_hessian(Tripled(model), LOSS.per_example, inputs, labels, entries)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
