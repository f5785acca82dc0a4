"""Dense curvature: equals autograd's Hessian in the order of captured gradients; unusable ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cases
import oracle
from captured import capture
from curvatures import dense_ggn
from proponent.attribution.curvature.exact import check_positive, eigendecompose, exact_hessian
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.losses import get_loss
from proponent.errors import CurvatureError

TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}
CROSS_ENTROPY = get_loss("cross_entropy")


def entries_of(case: cases.Case, include: list[str] | None = None) -> tuple[Any, Any]:
    layers = find_layers(case.model, include)
    return layers, oracle.order(case.model, {name: layer.groups for name, layer in layers.items()})


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "twice_used"])
def test_hessian_equals_autograd(name: str) -> None:
    case = cases.MODELS[name]()
    layers, entries = entries_of(case)
    found = exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), layers, weight_decay=0.03)
    expected = oracle.objective_hessian(
        case.model, CROSS_ENTROPY.per_example, case.inputs, case.labels, entries, weight_decay=0.03
    )
    torch.testing.assert_close(found, expected, **TIGHT)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("loss", ["bce", "hinge"])
def test_one_output_reshaped_takes_the_structured_path(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proponent.attribution.curvature.exact._add_hessian", None)
    case = cases.binary_logistic()
    layers, entries = entries_of(case)
    found = exact_hessian(case.model, get_loss(loss), case.batches(5), layers)
    expected = oracle.objective_hessian(case.model, get_loss(loss).per_example, case.inputs, case.labels, entries)
    torch.testing.assert_close(found, expected, **TIGHT)


def test_last_layer_alone_takes_the_structured_path_and_is_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.mlp()
    whole = exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), find_layers(case.model))
    monkeypatch.setattr("proponent.attribution.curvature.exact._add_hessian", None)
    last = exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), find_layers(case.model, ["2"]))
    torch.testing.assert_close(last, whole[25:, 25:], **TIGHT)


class Disguised(nn.Module):
    """A Linear whose output is changed: by scaling, in place, or by a second use."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(3, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "twice":
            return self.layer(torch.tanh(self.layer(x)))
        z = self.layer(x)
        return z * 0.5 if self.kind == "scaled" else z.tanh_() if self.kind == "in place" else z.T.contiguous().T


@pytest.mark.parametrize("kind", ["twice", "scaled", "in place", "copied"])
def test_outputs_that_are_not_the_layers_take_the_general_path(kind: str) -> None:
    torch.manual_seed(0)
    model = Disguised(kind).double()
    case = cases.Case(model, torch.randn(7, 3).double(), torch.randint(3, (7,)))
    layers, entries = entries_of(case)
    found = exact_hessian(model, CROSS_ENTROPY, case.batches(4), layers)
    per_example = CROSS_ENTROPY.per_example
    expected = oracle.objective_hessian(model, per_example, case.inputs, case.labels, entries)
    torch.testing.assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "twice_used", "grouped"])
def test_ggn_equals_the_jacobian_sandwich(name: str) -> None:
    case = cases.MODELS[name]()
    layers, entries = entries_of(case)
    found = dense_ggn(case.model, CROSS_ENTROPY, case.batches(4), layers, weight_decay=0.01)
    jacobian = oracle.output_jacobian(case.model, case.inputs, entries)
    middle = torch.stack([torch.diag(p) - torch.outer(p, p) for p in case.model(case.inputs).detach().softmax(1)])
    expected = torch.einsum("bcp,bcd,bdq->pq", jacobian, middle, jacobian) / len(case.labels)
    torch.testing.assert_close(found, expected + 0.01 * torch.eye(len(found)).double(), **TIGHT)


def test_captured_gradients_live_in_the_space_of_the_hessian() -> None:
    """Softmax curvature is the mean of ``g g^T`` over labels drawn by the model."""
    case = cases.logistic()
    layers = find_layers(case.model)
    hessian = exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), layers)
    probabilities = case.model(case.inputs).detach().softmax(1)
    fisher = torch.zeros_like(hessian)
    for label in range(3):
        labels = torch.full_like(case.labels, label)
        rows = capture(case.model, case.inputs, lambda z, y=labels: CROSS_ENTROPY.output_gradient(z, y), layers)
        flat = flat_gradients(rows[1])
        fisher += (flat * probabilities[:, label : label + 1]).T @ flat / len(flat)
    torch.testing.assert_close(hessian, fisher, **TIGHT)


def test_eigendecomposition_inverts() -> None:
    """Eigenvectors are columns: read as rows they would not."""
    case = cases.mlp()
    matrix = dense_ggn(case.model, CROSS_ENTROPY, case.batches(5), find_layers(case.model), weight_decay=0.1)
    values, vectors = eigendecompose(matrix)
    torch.testing.assert_close((vectors / values) @ vectors.T, torch.linalg.inv(matrix), **TIGHT)


def test_mini_batches_are_summed_before_the_inverse() -> None:
    """Not the mean of the batches' inverses, and not a mean of unequal batches' means."""
    case = cases.mlp(11)
    layers = find_layers(case.model)
    results = [exact_hessian(case.model, CROSS_ENTROPY, case.batches(size), layers) for size in (1, 4, 11)]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **TIGHT)


def test_hessian_of_a_float32_model_is_computed_in_float64() -> None:
    case = cases.mlp(dtype=torch.float32)
    double = cases.Case(cases.mlp(dtype=torch.float32).model.double(), case.inputs.double(), case.labels)
    layers = find_layers(case.model)
    for curvature in (exact_hessian, dense_ggn):
        found = curvature(case.model, CROSS_ENTROPY, case.batches(5), layers)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, curvature(double.model, CROSS_ENTROPY, double.batches(5), layers), **TIGHT)
    assert next(case.model.parameters()).dtype == torch.float32


def test_progress_reports_examples() -> None:
    case, seen = cases.logistic(), []
    exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), find_layers(case.model), progress=seen.append)
    assert seen == [5, 10, 12]


def test_unusable_requests_are_refused() -> None:
    case = cases.logistic()
    layers = find_layers(case.model)
    with pytest.raises(CurvatureError, match=r"21 parameters.*limit of 20"):
        exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), layers, max_params=20)
    with pytest.raises(CurvatureError, match=r"Expected 13 examples.*12"):
        exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), layers, num_examples=13)
    with pytest.raises(CurvatureError, match="at least one"):
        exact_hessian(case.model, CROSS_ENTROPY, [], layers)
    with pytest.raises(CurvatureError, match="not finite"):
        eigendecompose(torch.full((2, 2), torch.nan))


def test_softmax_without_weight_decay_is_singular_and_refused_without_damping() -> None:
    case = cases.logistic(40)
    hessian = exact_hessian(case.model, CROSS_ENTROPY, case.batches(40), find_layers(case.model))
    values, vectors = eigendecompose(hessian)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(21).double())
    with pytest.raises(CurvatureError, match=r"singular: smallest eigenvalue.*weight_decay or damping > 0"):
        check_positive(values)
    check_positive(values, damping=1e-3)
    check_positive(values + 1e-2)


def test_an_indefinite_hessian_is_refused_by_name_of_its_smallest_eigenvalue() -> None:
    with pytest.raises(CurvatureError, match=r"indefinite: smallest eigenvalue -0\.25"):
        check_positive(torch.tensor([-0.25, 1.0]), damping=0.1)
