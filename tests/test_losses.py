"""Losses: agree with autograd, keep relative accuracy where examples are fitted well, sample reproducibly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F

from proponent.attribution.losses import CallableLoss, Loss, get_loss
from proponent.attribution.uniforms import example_uniforms
from proponent.errors import ProponentError


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - (labels.unsqueeze(1) == torch.arange(3, device=labels.device)).to(outputs)).square().sum(
        1
    ) * outputs.square().sum(1)


def outputs_for(name: str, dtype: torch.dtype = torch.float64) -> tuple[Loss, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    width = 1 if name in ("bce", "hinge_binary") else 3
    outputs = torch.randn(20, width, generator=generator, dtype=torch.float64).to(dtype) * 2
    outputs = outputs.log_softmax(1) if name == "nll" else outputs
    labels = torch.randint(max(width, 2), (20,), generator=generator)
    loss = CallableLoss(squared) if name == "callable" else get_loss(name.removesuffix("_binary"))
    return loss, outputs, labels


EXACT = ["cross_entropy", "bce", "hinge", "hinge_binary", "callable"]
ALL = [*EXACT, "nll"]


def single(loss: Loss):
    return lambda z, y: loss.per_example(z.unsqueeze(0), y.unsqueeze(0))[0]


@pytest.mark.parametrize("name", EXACT)
def test_gradient_and_hessian_agree_with_autograd(name: str) -> None:
    loss, outputs, labels = outputs_for(name)
    expected = vmap(grad(single(loss)))(outputs, labels)
    torch.testing.assert_close(loss.output_gradient(outputs, labels), expected, rtol=1e-10, atol=1e-13)
    curvature = vmap(jacrev(grad(single(loss))))(outputs, labels)
    torch.testing.assert_close(loss.output_hessian(outputs, labels), curvature, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_values_match_torch(name: str) -> None:
    loss, outputs, labels = outputs_for(name)
    expected = {
        "cross_entropy": lambda: F.cross_entropy(outputs, labels, reduction="none"),
        "nll": lambda: F.nll_loss(outputs, labels, reduction="none"),
        "bce": lambda: F.binary_cross_entropy_with_logits(outputs[:, 0], labels.double(), reduction="none"),
        "hinge": lambda: F.multi_margin_loss(outputs, labels, reduction="none") * 0 + crammer_singer(outputs, labels),
        "hinge_binary": lambda: (1 - (2 * labels - 1) * outputs[:, 0]).clamp(min=0),
        "callable": lambda: squared(outputs, labels),
    }[name]()
    torch.testing.assert_close(loss.per_example(outputs, labels), expected)


def crammer_singer(outputs: Tensor, labels: Tensor) -> Tensor:
    margins = [
        max(1 + z[c] - z[y] for c in range(len(z)) if c != y)
        for z, y in zip(outputs.tolist(), labels.tolist(), strict=True)
        for z in [torch.tensor(z, dtype=torch.float64)]
    ]
    return torch.stack(margins).clamp(min=0)


def test_nll_gives_the_parameter_gradient_and_curvature_of_log_softmax() -> None:
    loss, _, labels = outputs_for("nll")
    logits = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian = vmap(jacrev(lambda z: z.log_softmax(0)))(logits)
    outputs = logits.log_softmax(1)
    gradient = torch.einsum("bcz,bc->bz", jacobian, loss.output_gradient(outputs, labels))
    cross_entropy = get_loss("cross_entropy")
    torch.testing.assert_close(gradient, cross_entropy.output_gradient(logits, labels), rtol=1e-10, atol=1e-13)
    middle = loss.output_hessian(outputs, labels)
    curvature = torch.einsum("bcz,bcd,bdw->bzw", jacobian, middle, jacobian)
    torch.testing.assert_close(curvature, cross_entropy.output_hessian(logits, labels), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "bce"])
def test_gradients_of_well_fitted_examples_keep_relative_accuracy(name: str) -> None:
    """float32 p_y - 1 would be exactly zero here."""
    logits = torch.tensor([[40.0], [-40.0]]) if name == "bce" else torch.tensor([[0.0, 40.0, 1.0], [45.0, 5.0, 0.0]])
    labels = torch.tensor([1, 0])
    loss = get_loss(name)
    outputs = logits.log_softmax(1) if name == "nll" else logits
    exact = loss.output_gradient(logits.double().log_softmax(1) if name == "nll" else logits.double(), labels)
    found = loss.output_gradient(outputs, labels)
    assert (found.abs() > 0).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    root = loss.hessian_root(outputs, labels)
    diagonal = loss.output_hessian(logits.double(), labels).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(root.double().square().sum(2), diagonal, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_hessian_root_squares_to_the_positive_part(name: str) -> None:
    loss, outputs, labels = outputs_for(name)
    root = loss.hessian_root(outputs, labels)
    values, vectors = torch.linalg.eigh(loss.output_hessian(outputs, labels))
    if name != "callable":
        assert values.min() > -1e-12
    expected = vectors @ torch.diag_embed(values.clamp(min=0)) @ vectors.mT
    torch.testing.assert_close(root @ root.mT, expected, rtol=1e-10, atol=1e-12)


def test_flat_and_column_outputs_agree_for_one_output() -> None:
    for name in ("bce", "hinge_binary"):
        loss, outputs, labels = outputs_for(name)
        assert loss.output_gradient(outputs[:, 0], labels).shape == (20,)
        for method in (loss.per_example, loss.output_hessian):
            torch.testing.assert_close(method(outputs[:, 0], labels), method(outputs, labels))
        assert loss.num_classes(outputs[:, 0]) == 2


@pytest.mark.parametrize("name", ALL)
def test_prediction_is_the_most_probable_class(name: str) -> None:
    loss, outputs, _ = outputs_for(name)
    probabilities = loss.probabilities(outputs)
    assert probabilities.shape == (20, loss.num_classes(outputs))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20, dtype=torch.float64))
    assert torch.equal(loss.predict(outputs), probabilities.argmax(1))


def test_sampled_labels_follow_the_probabilities_and_never_the_impossible() -> None:
    loss = get_loss("cross_entropy")
    outputs = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(20_000, -1)
    labels = loss.sample_labels(outputs, example_uniforms(torch.arange(20_000), seed=3, draw=0))
    frequencies = labels.bincount(minlength=4) / 20_000
    assert frequencies[0] == frequencies[3] == 0
    torch.testing.assert_close(frequencies, outputs[0].softmax(0), atol=0.015, rtol=0)
    edges = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert loss.sample_labels(outputs[:2], edges).tolist() == [1, 2]


def test_uniforms_depend_on_seed_id_and_draw_only() -> None:
    ids = torch.tensor([5, 2**40, 0, -9, 77])
    whole = example_uniforms(ids, seed=11, draw=2)
    parts = torch.cat([example_uniforms(part, seed=11, draw=2) for part in ids.flip(0).split(2)]).flip(0)
    assert torch.equal(whole, parts)
    assert whole.dtype == torch.float64 and (whole >= 0).all() and (whole < 1).all()
    others = [example_uniforms(ids, seed=12, draw=2), example_uniforms(ids, seed=11, draw=3)]
    assert all((other != whole).all() for other in others)


def test_uniforms_of_neighbouring_counters_are_uncorrelated() -> None:
    ids = torch.arange(4000)
    streams = torch.stack([example_uniforms(ids + k, seed, draw) for k, seed, draw in
                           [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, -1, 0)]])  # fmt: skip
    correlation = torch.corrcoef(streams)
    assert (correlation - torch.eye(6)).abs().max() < 0.06
    assert (streams.mean(1) - 0.5).abs().max() < 0.02


def test_unknown_loss_names_the_value_and_the_choices() -> None:
    with pytest.raises(ProponentError, match=r"'focal'.*cross_entropy, nll, bce, hinge"):
        get_loss("focal")


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ProponentError, match="one output"):
        get_loss("bce").per_example(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ProponentError, match="one value per example"):
        get_loss(lambda z, y: z).per_example(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("name", ALL)
def test_everything_runs_on_meta(name: str) -> None:
    loss, outputs, labels = outputs_for(name)
    outputs, labels = outputs.to("meta"), labels.to("meta")
    methods = [loss.per_example, loss.output_gradient, loss.output_hessian]
    methods += [] if name == "callable" else [loss.hessian_root]
    assert all(method(outputs, labels).shape[0] == 20 for method in methods)
    uniforms = example_uniforms(labels, 0, 0)
    assert loss.sample_labels(outputs, uniforms).shape == loss.predict(outputs).shape == (20,)


def test_a_users_loss_may_hold_constants_in_single_precision() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0])
    loss = get_loss(lambda outputs, labels: F.cross_entropy(outputs, labels, weight=weights, reduction="none"))
    outputs, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double(), torch.arange(5) % 3
    plain, factors = get_loss("cross_entropy"), weights.double()[labels]
    gradient = loss.output_gradient(outputs, labels)
    assert gradient.dtype == torch.float64
    expected = plain.output_gradient(outputs, labels) * factors[:, None]
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
    hessian = plain.output_hessian(outputs, labels) * factors[:, None, None]
    torch.testing.assert_close(loss.output_hessian(outputs, labels), hessian, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("cross_entropy", torch.zeros(4, 1), r"one output for each class, got outputs of shape \[4, 1\]"),
        ("cross_entropy", torch.zeros(4), r"one output for each class, got outputs of shape \[4\]"),
        ("nll", torch.randn(4, 3), "log-probabilities"),
        ("bce", torch.zeros(4, 3), "one output per example"),
    ],
)
def test_outputs_that_do_not_fit_the_loss_are_refused(name: str, outputs: Tensor, message: str) -> None:
    with pytest.raises(ProponentError, match=message):
        get_loss(name).check_outputs(outputs)
    get_loss("nll").check_outputs(torch.randn(4, 3).log_softmax(1))
    get_loss("hinge").check_outputs(torch.zeros(4))


def test_a_users_loss_that_fails_is_named() -> None:
    def broken(outputs: Tensor, labels: Tensor) -> Tensor:
        raise KeyError("weights")

    with pytest.raises(ProponentError, match="The loss raised KeyError: 'weights'"):
        get_loss(broken).output_gradient(torch.zeros(2, 3).double(), torch.tensor([0, 1]))
