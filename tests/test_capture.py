"""Capture: per-example gradients equal vmap(grad) for every kind of layer; the model stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import cases
import oracle
from captured import TIGHT, capture, check_against_oracle
from proponent.attribution.gradients import patches
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import (
    find_layers,
    flatten,
    flatten_parameters,
    num_parameters,
    split_flat,
    uncovered,
    unflatten,
    unflatten_parameters,
)
from proponent.attribution.gradients.patch_moment import has_fast_moment, patch_moment
from proponent.attribution.losses import get_loss
from proponent.errors import ProponentError

CROSS_ENTROPY = get_loss("cross_entropy")


def captured(model: nn.Module, inputs: Tensor, labels: Tensor) -> LayerGradients:
    layers = find_layers(model, frozen=True)
    return capture(model, inputs, lambda z: CROSS_ENTROPY.output_gradient(z, labels), layers)[1]


@pytest.mark.parametrize("name", cases.MODELS)
def test_gradients_equal_vmap_grad(name: str) -> None:
    case = cases.MODELS[name]()
    assert all(g.dense().any() for g in captured(case.model, case.inputs, case.labels).values())
    check_against_oracle(case.model, case.inputs, case.labels)


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Module:
    groups = draw(st.sampled_from([1, 2, 4]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding: Any = draw(st.sampled_from(["same", "valid", 0, 1, (0, 2), (2, 1)]))
    stride: Any = 1 if padding == "same" else draw(st.sampled_from([1, 2, (2, 1), (1, 3)]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    conv = nn.Conv2d(
        4,
        draw(st.sampled_from([1, 2])) * groups,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    before = nn.Conv2d(2, 4, 1) if draw(st.booleans()) else nn.Conv2d(2, 4, 3, padding=1, bias=False)
    return nn.Sequential(before, nn.ReLU(inplace=True), conv, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(convolutions(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_convolutions_of_every_kind_equal_vmap_grad(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    inputs = torch.randn(3, 2, 7, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    labels = torch.randint(model(inputs).shape[1], (3,), generator=generator)
    check_against_oracle(model, inputs, labels)


@given(st.booleans(), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 3), st.integers(0, 1000))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_linear_layers_over_extra_dimensions(bias: bool, extra: list[int], width: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width, bias=bias), nn.Tanh(), nn.Linear(width, 3, bias=not bias))
    model = nn.Sequential(model, nn.Flatten()).double()
    inputs = torch.randn(4, *extra, 2, dtype=torch.float64)
    check_against_oracle(model, inputs, torch.randint(3, (4,)))


@pytest.mark.parametrize("name", cases.MODELS)
def test_batch_and_single_examples_agree(name: str) -> None:
    case = cases.MODELS[name]()
    whole = flat_gradients(captured(case.model, case.inputs, case.labels))
    parts = [flat_gradients(captured(case.model, x, y)) for x, y, _ in case.batches(1)]
    torch.testing.assert_close(torch.cat(parts), whole, **TIGHT)


@pytest.mark.parametrize("name", cases.MODELS)
@pytest.mark.parametrize("r", [1, 100])
@pytest.mark.parametrize("s", [1, 100])
def test_projection_equals_projecting_the_dense_gradient(name: str, r: int, s: int) -> None:
    case = cases.MODELS[name]()
    for gradient in captured(case.model, case.inputs, case.labels).values():
        g, out, width = gradient.shape.groups, gradient.shape.out, gradient.shape.inputs
        left, right = torch.randn(g, out, r).double(), torch.randn(g, width, s).double()
        expected = torch.einsum("gor,bgoi,gis->bgrs", left, gradient.dense(), right)
        torch.testing.assert_close(gradient.project(left, right), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", cases.MODELS)
def test_sums_and_norms_are_those_of_dense_gradients(name: str) -> None:
    case = cases.MODELS[name]()
    for gradient in captured(case.model, case.inputs, case.labels).values():
        dense = gradient.dense()
        total, squares = gradient.sum_and_squares()
        torch.testing.assert_close(total, dense.sum(dim=0), **TIGHT)
        torch.testing.assert_close(squares, dense.square().flatten(1).sum(dim=1), **TIGHT)


def test_several_backwards_of_one_forward_are_independent_and_linear() -> None:
    case = cases.twice_used()
    layers = find_layers(case.model)
    with CaptureSession(case.model, layers) as session:
        outputs = session.forward(case.inputs)
        rows = [flat_gradients(session.backward(torch.eye(3).double()[c].expand(6, 3))) for c in range(3)]
        again = flat_gradients(session.backward(CROSS_ENTROPY.output_gradient(outputs, case.labels)))
    entries = oracle.order(case.model, {name: layer.groups for name, layer in layers.items()})
    jacobian = oracle.output_jacobian(case.model, case.inputs, entries)
    torch.testing.assert_close(torch.stack(rows, dim=1), jacobian, **TIGHT)
    combined = torch.einsum("bc,bcp->bp", CROSS_ENTROPY.output_gradient(outputs, case.labels), jacobian)
    torch.testing.assert_close(again, combined, **TIGHT)


def fingerprint(model: nn.Module) -> Any:
    state = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    flags = [(m.training, sorted(vars(m)), hooks(m)) for m in model.modules()]
    return (
        state,
        flags,
        [(p.requires_grad, p.grad, p._backward_hooks, p._version) for p in model.parameters()],
    )


def hooks(module: nn.Module) -> list[int]:
    return [len(value) for key, value in sorted(vars(module).items()) if "hooks" in key]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("fails", ["no", "in forward", "in the caller"])
def test_model_is_left_as_found(frozen: bool, fails: str) -> None:
    case = cases.grouped()
    case.model.requires_grad_(not frozen)
    case.model.head.weight.requires_grad_(True)
    before = fingerprint(case.model)
    inputs = case.inputs[:, :1] if fails == "in forward" else case.inputs

    def output_gradient(outputs: Tensor) -> Tensor:
        if fails == "in the caller":
            raise ZeroDivisionError
        return outputs

    if fails == "no":
        capture(case.model, inputs, output_gradient, find_layers(case.model, frozen=True))
    else:
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            capture(case.model, inputs, output_gradient, find_layers(case.model, frozen=True))
    after = fingerprint(case.model)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert after[1:] == before[1:]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_do_not_depend_on_requires_grad_or_the_grad_mode(context: Any, frozen: bool) -> None:
    case = cases.grouped()
    expected = flat_gradients(captured(case.model, case.inputs, case.labels))
    case.model.requires_grad_(not frozen)
    with context():
        found = flat_gradients(captured(case.model, case.inputs * 1.0, case.labels))
    torch.testing.assert_close(found, expected, **TIGHT)


def test_a_layer_that_took_no_part_has_zero_gradient() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Conv2d(2, 2, 3), "cut": nn.Linear(2, 2)}).double()

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            x = model["cut"](x)
        return model["used"](x)

    model.forward = forward
    gradients = captured(model, torch.randn(3, 2).double(), torch.tensor([0, 1, 0]))
    assert gradients["idle"].inputs.shape == (3, 1, 0, 19)
    assert gradients["idle"].dense().shape == (3, 1, 2, 19)
    assert not gradients["idle"].dense().any() and not gradients["cut"].dense().any()
    assert gradients["used"].dense().any()


def test_user_hooks_that_replace_the_output_are_respected() -> None:
    model = nn.Sequential(nn.Linear(2, 3)).double()
    model[0].register_forward_hook(lambda module, args, output: output * 3)
    gradient = captured(model, torch.ones(1, 2).double(), torch.tensor([0]))["0"].dense()
    delta = 3 * CROSS_ENTROPY.output_gradient(model(torch.ones(1, 2).double()), torch.tensor([0]))
    torch.testing.assert_close(gradient[0, 0], delta.T @ torch.ones(1, 3).double())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Linear(3, 3)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.attention = nn.MultiheadAttention(4, 1)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)


def test_only_layers_with_plain_own_weights_are_covered_and_the_rest_is_named() -> None:
    model = Tied()
    layers = find_layers(model)
    maps = [f"attention.{name}" for name in ("in_proj.query", "in_proj.key", "in_proj.value", "out_proj")]
    assert list(layers) == ["free", *maps, "conv"]
    conv = layers["conv"]
    assert (conv.groups, conv.out, conv.inputs, conv.has_bias) == (2, 3, 2 * 9 + 1, True)
    rest = uncovered(model, layers)
    assert {"one.weight", "two.bias", "norm.weight"} <= set(rest)
    assert rest["one.weight"] == 9
    assert any(name.startswith("spectral.") for name in rest)
    assert sum(rest.values()) + num_parameters(layers) == sum(p.numel() for p in model.parameters())


def test_include_selects_by_qualified_prefix() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(1, 1)), "ab": nn.Linear(1, 1)})
    assert list(find_layers(model, ["a"])) == ["a.0"]
    assert list(find_layers(model, ["ab", "a.0"])) == ["a.0", "ab"]
    with pytest.raises(ProponentError, match=r"'b'.*a\.0, ab"):
        find_layers(model, ["b"])
    maps = ["in_proj.query", "in_proj.key", "in_proj.value"]
    attention = nn.ModuleDict({"a": nn.MultiheadAttention(4, 2)})
    assert list(find_layers(attention, ["a"])) == [f"a.{name}" for name in (*maps, "out_proj")]
    # They share their parameters: one of them alone is not to be had.
    assert list(find_layers(attention, ["a.in_proj"])) == [f"a.{name}" for name in maps]
    with pytest.raises(ProponentError, match=r"'a\.in_proj\.key'"):
        find_layers(attention, ["a.in_proj.key"])


def test_the_parameter_order_has_the_bias_as_last_column() -> None:
    """Weight and bias flattened one after the other would read as another matrix."""
    case = cases.grouped()
    layers = find_layers(case.model)
    parameters = dict(case.model.named_parameters())
    flat = flatten_parameters(parameters, layers)
    entries = oracle.order(case.model, {name: layer.groups for name, layer in layers.items()})
    torch.testing.assert_close(flat, oracle.flat_parameters(case.model, entries), rtol=0, atol=0)
    for name, value in unflatten_parameters(flat, layers).items():
        assert torch.equal(value, parameters[name])
    head = split_flat(flat, layers)["head"]
    assert torch.equal(head[0, :, -1], case.model.head.bias)
    weight, bias = unflatten(layers["head"], head)
    assert weight is not None and bias is not None
    assert torch.equal(flatten(layers["head"], {"head.weight": weight, "head.bias": bias}), head)


class Broken(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(2, 2), kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "merged batch":
            return self.layer(x.repeat(2, 1)).sum(0, keepdim=True).expand(3, -1)
        y = x * 1.0
        z = self.layer(y)
        if self.kind == "modified input":
            y.mul_(2)
        return (z,) if self.kind == "tuple" else z


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("merged batch", "'layer'.*batch of 3"),
        ("modified input", "'layer'.*in place"),
        ("tuple", r"must return a tensor, .* got tuple"),
    ],
)
def test_what_cannot_be_captured_is_refused(kind: str, message: str) -> None:
    with pytest.raises(ProponentError, match=message):
        captured(Broken(kind), torch.randn(3, 2), torch.tensor([0, 1, 1]))


def test_backward_without_forward_is_refused() -> None:
    with CaptureSession(nn.Linear(2, 2), {}) as session, pytest.raises(RuntimeError, match="forward"):
        session.backward(torch.zeros(1, 2))


@pytest.mark.parametrize("name", cases.MODELS)
def test_runs_on_meta(name: str) -> None:
    case = cases.MODELS[name]()
    model = copy.deepcopy(case.model).to("meta")
    gradients = captured(model, case.inputs.to("meta"), case.labels.to("meta"))
    expected = captured(case.model, case.inputs, case.labels)
    for layer, gradient in gradients.items():
        assert gradient.dense().shape == expected[layer].dense().shape
        assert gradient.dense().device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_follows_the_model(dtype: torch.dtype) -> None:
    case = cases.cnn(dtype=dtype)
    assert all(g.dense().dtype == dtype for g in captured(case.model, case.inputs, case.labels).values())


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(st.integers(2, 5), st.integers(2, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.booleans(),
)
@example(kernel=(3, 3), padding=(1, 1), size=(1, 1), bias=True)
def test_moments_of_patches_need_no_patches(
    kernel: tuple[int, int], padding: tuple[int, int], size: tuple[int, int], bias: bool
) -> None:
    """Windows of every width, with and without zeros around the image: sums of outer products of unfolded patches."""
    assume(all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel, strict=True)))
    module = nn.Conv2d(8, 3, kernel, padding=padding, bias=bias).double()
    assert has_fast_moment(module)
    inputs = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(sum(size)), dtype=torch.float64)
    patches = torch.nn.functional.unfold(inputs, kernel, padding=padding)
    if bias:
        patches = torch.cat([patches, torch.ones_like(patches[:, :1])], dim=1)
    expected = torch.einsum("bit,bjt->ij", patches, patches)
    torch.testing.assert_close(patch_moment(module, inputs, has_bias=bias), expected)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(2, 8, 3),
        nn.Linear(8, 8),
    ],
)
def test_moments_of_other_patches_are_taken_of_patches(module: nn.Module) -> None:
    assert not has_fast_moment(module)


@pytest.mark.parametrize("narrow", [0, 64])
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2),
        nn.Conv2d(4, 6, 2, padding="same", dilation=2, padding_mode="reflect"),
    ],
)
def test_weight_gradients_are_those_of_each_example(
    module: nn.Conv2d, narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all examples at once and of one after the other."""
    monkeypatch.setattr(patches, "NARROW", narrow)
    module = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 7, 8, generator=generator, dtype=torch.float64)
    deltas = torch.randn(module(inputs).shape, generator=generator, dtype=torch.float64)
    expected = torch.stack(
        [torch.autograd.grad(module(inputs[b : b + 1]), module.weight, deltas[b : b + 1])[0] for b in range(3)]
    )
    found = patches.weight_gradients(module, inputs, deltas)
    assert found.shape == (3, module.groups, 6 // module.groups, expected[0, 0].numel())
    torch.testing.assert_close(found.reshape(expected.shape), expected)
