"""K-FAC and EK-FAC: factors equal brute force, whatever the batches, and invert as one Kronecker block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cases
from captured import capture
from curvatures import accumulate, dense_ggn, fit_ekfac, fit_kfac
from proponent.attribution.curvature.ekfac import LambdaAccumulator
from proponent.attribution.curvature.exact import exact_hessian
from proponent.attribution.curvature.factors import LayerFactors, damping_per_layer, ihvp
from proponent.attribution.curvature.fisher import FisherKind, fisher_gradients
from proponent.attribution.curvature.kfac import CovarianceAccumulator, eigenbases
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerUse, flat_gradients
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.losses import CrossEntropy, get_loss
from proponent.attribution.uniforms import example_uniforms
from proponent.errors import CurvatureError, ProponentError

CROSS_ENTROPY = get_loss("cross_entropy")
TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-13}
KINDS: list[FisherKind] = ["true", "empirical", "ggn"]


def brute_force_passes(case: cases.Case, kind: str, draws: int) -> list[dict[str, Tensor]]:
    """Dense weighted gradients of each pass over all examples at once."""
    layers = find_layers(case.model)
    outputs = case.model(case.inputs).detach()
    probabilities = outputs.softmax(1)
    one_hot = torch.eye(3, dtype=outputs.dtype)
    if kind == "empirical":
        seeds = [one_hot[case.labels] - probabilities]
    elif kind == "ggn":
        seeds = [(one_hot[c] - probabilities) * probabilities[:, c : c + 1].sqrt() for c in range(3)]
    else:
        uniforms = [example_uniforms(case.ids, 5, draw) for draw in range(draws)]
        labels = [(probabilities.cumsum(1) <= u.unsqueeze(1)).sum(1) for u in uniforms]
        seeds = [(one_hot[y] - probabilities) / draws**0.5 for y in labels]
    captured = [capture(case.model, case.inputs, lambda _, s=s: s, layers)[1] for s in seeds]
    return [{name: gradient.dense() for name, gradient in found.items()} for found in captured]


@pytest.mark.parametrize("name", cases.MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues_are_the_mean_squares_along_the_eigenvectors(name: str, kind: FisherKind) -> None:
    case = cases.MODELS[name]()
    layers = find_layers(case.model)
    factors = fit_ekfac(case.model, CROSS_ENTROPY, case.batches(4), layers, kind=kind, seed=5, draws=2)
    passes = brute_force_passes(case, kind, draws=2)
    for layer, factor in factors.items():
        expected = torch.zeros_like(factor.eigenvalues)
        for g in range(layers[layer].groups):
            for row in range(layers[layer].out):
                for column in range(layers[layer].inputs):
                    u, v = factor.q_out[g, :, row], factor.q_in[g, :, column]
                    values = [torch.einsum("o,boi,i->b", u, p[layer][:, g], v) for p in passes]
                    expected[g, row, column] = sum(value.square().mean() for value in values)
        torch.testing.assert_close(factor.eigenvalues, expected, **TIGHT)


@pytest.mark.parametrize("name", cases.MODELS)
def test_eigenvectors_are_orthonormal_columns_of_the_covariances(name: str) -> None:
    case = cases.MODELS[name]()
    layers = find_layers(case.model)
    bases = fit_kfac(case.model, CROSS_ENTROPY, case.batches(4), layers, kind="empirical")
    _, gradients = capture(case.model, case.inputs, lambda z: CROSS_ENTROPY.output_gradient(z, case.labels), layers)
    for layer, basis in bases.items():
        a, d = gradients[layer].inputs, gradients[layer].deltas
        inputs = torch.einsum("bgti,bgtj->gij", a, a) / len(a)
        outputs = torch.einsum("bgto,bgtp->gop", d, d) / len(a) / d.shape[2]
        for q, covariance in ((basis.q_in, inputs), (basis.q_out, outputs)):
            torch.testing.assert_close(q.mT @ q, torch.eye(q.shape[1]).double().expand_as(q))
            rotated = q.mT @ covariance @ q
            torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=1, dim2=2)), **TIGHT)
        trace = inputs.diagonal(dim1=1, dim2=2).sum(1) * outputs.diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(basis.eigenvalues.sum((1, 2)), trace, **TIGHT)


def test_the_kronecker_product_has_the_scale_of_the_fisher_matrix_under_its_own_assumptions() -> None:
    """Independent inputs and output gradients, at T positions: mean of ``g g^T`` is ``S (x) A``."""
    generator = torch.Generator().manual_seed(0)
    count, positions = 40_000, 4
    layer = nn.Linear(2, 2)
    shape = find_layers(layer)[""]
    mix = torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    a = torch.randn(count, positions, 2, generator=generator, dtype=torch.float64) + 1
    d = torch.randn(count, positions, 2, generator=generator, dtype=torch.float64) @ mix
    gradient = fake_gradient(layer, shape, a, d)
    accumulator = CovarianceAccumulator({"": shape})
    accumulator.update([{"": gradient}], count)
    basis = eigenbases(accumulator.state(), {"": shape})[""]
    kron = torch.kron(basis.q_out[0], basis.q_in[0])
    approximation = kron @ torch.diag(basis.eigenvalues.flatten()) @ kron.T
    rows = gradient.dense().flatten(1)
    torch.testing.assert_close(approximation, rows.T @ rows / count, rtol=0.05, atol=0.4)


def fake_gradient(layer: nn.Linear, shape: Any, a: Tensor, d: Tensor) -> LayerGradient:
    return LayerGradient(shape, (LayerUse(layer, a, d),), a.new_empty(len(a), 0))


def test_ekfac_of_one_example_is_exact_where_kfac_is() -> None:
    """One example, one position, one pass: the gradient is a Kronecker product and both are exact."""
    case = cases.mlp(1)
    layers = find_layers(case.model)
    kfac = fit_kfac(case.model, CROSS_ENTROPY, case.batches(1), layers, kind="empirical")
    ekfac = fit_ekfac(case.model, CROSS_ENTROPY, case.batches(1), layers, kind="empirical")
    for layer in layers:
        torch.testing.assert_close(kfac[layer].eigenvalues, ekfac[layer].eigenvalues, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cnn", "twice_used", "grouped"])
def test_factors_do_not_depend_on_the_batch_size(name: str, kind: FisherKind) -> None:
    case = cases.MODELS[name]()
    layers = find_layers(case.model)
    whole = state_of(case, layers, case.batches(100), kind)
    for batches in (case.batches(1), case.batches(4), case.batches(2)[::-1]):
        found = state_of(case, layers, batches, kind)
        for key, value in whole.items():
            torch.testing.assert_close(found[key], value, **TIGHT)


def state_of(case: cases.Case, layers: Any, batches: Any, kind: FisherKind) -> dict[str, Tensor]:
    accumulator = CovarianceAccumulator(layers)
    accumulate(accumulator, case.model, CROSS_ENTROPY, batches, layers, kind=kind, seed=5, draws=2)
    state = accumulator.state()
    bases = fit_kfac(case.model, CROSS_ENTROPY, case.batches(3), layers)
    squares = LambdaAccumulator(bases)
    accumulate(squares, case.model, CROSS_ENTROPY, batches, layers, kind=kind, seed=5, draws=2)
    return state | squares.state()


def test_inputs_are_counted_once_however_many_passes_share_them() -> None:
    case = cases.cnn()
    layers = find_layers(case.model)
    empirical, ggn = (state_of(case, layers, case.batches(4), kind) for kind in ("empirical", "ggn"))
    for layer in layers:
        torch.testing.assert_close(ggn[f"inputs/{layer}"], empirical[f"inputs/{layer}"], rtol=0, atol=0)


def test_accumulators_resume_from_their_state() -> None:
    case = cases.cnn()
    layers = find_layers(case.model)
    whole = state_of(case, layers, case.batches(4), "true")
    bases = fit_kfac(case.model, CROSS_ENTROPY, case.batches(3), layers)
    for make in (lambda: CovarianceAccumulator(layers), lambda: LambdaAccumulator(bases)):
        first, second = make(), make()
        options: dict[str, Any] = {"kind": "true", "seed": 5, "draws": 2}
        accumulate(first, case.model, CROSS_ENTROPY, case.batches(4)[:1], layers, **options)
        second.load({key: value.clone() for key, value in first.state().items()})
        accumulate(second, case.model, CROSS_ENTROPY, case.batches(4)[1:], layers, **options)
        for key, value in second.state().items():
            torch.testing.assert_close(value, whole[key], **TIGHT)


def test_summed_squares_over_ggn_passes_are_the_ggn() -> None:
    case = cases.cnn()
    layers = find_layers(case.model)
    with CaptureSession(case.model, layers) as session:
        outputs = session.forward(case.inputs)
        passes = fisher_gradients(session, CROSS_ENTROPY, outputs, case.labels, case.ids, kind="ggn")
        rows = torch.cat([flat_gradients(gradients) for gradients in passes])
    expected = dense_ggn(case.model, CROSS_ENTROPY, case.batches(4), layers)
    torch.testing.assert_close(rows.T @ rows / len(case.labels), expected, **TIGHT)


def test_drawn_labels_estimate_the_ggn_without_bias() -> None:
    case = cases.logistic()
    layers = find_layers(case.model)
    with CaptureSession(case.model, layers) as session:
        outputs = session.forward(case.inputs)
        passes = fisher_gradients(session, CROSS_ENTROPY, outputs, case.labels, case.ids, kind="true", draws=3000)
        estimate = sum(g.T @ g for g in map(flat_gradients, passes)) / len(case.labels)
    expected = exact_hessian(case.model, CROSS_ENTROPY, case.batches(4), layers)
    assert (estimate - expected).norm() < 0.05 * expected.norm()


def kronecker_problem() -> tuple[dict[str, LayerFactors], dict[str, Tensor]]:
    case = cases.grouped()
    layers = find_layers(case.model)
    factors = fit_ekfac(case.model, CROSS_ENTROPY, case.batches(4), layers)
    _, captured = capture(case.model, case.inputs, lambda z: CROSS_ENTROPY.output_gradient(z, case.labels), layers)
    return factors, {name: gradient.dense() for name, gradient in captured.items()}


def test_ihvp_applies_the_damped_inverse_once() -> None:
    """Not H^-2, not the eigenvectors as rows, not another layer's damping; groups are separate blocks."""
    factors, gradients = kronecker_problem()
    damping = damping_per_layer(factors, 0.1, relative=True)
    found = ihvp(factors, damping, gradients)
    for name, factor in factors.items():
        for g in range(len(factor.q_out)):
            kron = torch.kron(factor.q_out[g], factor.q_in[g])
            curvature = kron @ torch.diag(factor.eigenvalues[g].flatten()) @ kron.T
            curvature += damping[name] * torch.eye(len(kron)).double()
            expected = torch.linalg.solve(curvature, gradients[name][:, g].flatten(1).T).T
            torch.testing.assert_close(found[name][:, g].flatten(1), expected, rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(factor.rotate_back(factor.rotate(gradients[name])), gradients[name])


def test_each_layer_has_its_own_damping_and_nothing_is_mutated() -> None:
    factors, gradients = kronecker_problem()
    before = {name: factor.eigenvalues.clone() for name, factor in factors.items()}
    relative = damping_per_layer(factors, 0.5, relative=True)
    assert len(set(relative.values())) == len(factors)
    for name, factor in factors.items():
        assert relative[name] == pytest.approx(0.5 * float(factor.eigenvalues.mean()))
    assert set(damping_per_layer(factors, 0.5, relative=False).values()) == {0.5}
    first = ihvp(factors, relative, gradients)
    ihvp(factors, damping_per_layer(factors, 7.0, relative=False), gradients)
    again = ihvp(factors, relative, gradients)
    for name in factors:
        assert torch.equal(first[name], again[name])
        assert torch.equal(factors[name].eigenvalues, before[name])


def test_an_inverse_without_damping_of_a_singular_layer_is_refused() -> None:
    factors, gradients = kronecker_problem()
    singular = {n: LayerFactors(f.q_out, f.q_in, f.eigenvalues * 0) for n, f in factors.items()}
    with pytest.raises(CurvatureError, match=r"'stem'.*not positive.*larger damping"):
        ihvp(singular, damping_per_layer(singular, 0.1), gradients)


class FarTooSure(CrossEntropy):
    """Output gradients so small that their float32 squares are zero."""

    def output_gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return super().output_gradient(outputs, labels) * 1e-24


def test_squares_of_tiny_gradients_do_not_underflow() -> None:
    case = cases.mlp(dtype=torch.float32)
    layers = find_layers(case.model)
    bases = fit_kfac(case.model, CROSS_ENTROPY, case.batches(4), layers, kind="empirical")
    plain, tiny = LambdaAccumulator(bases), LambdaAccumulator(bases)
    accumulate(plain, case.model, CROSS_ENTROPY, case.batches(4), layers, kind="empirical")
    accumulate(tiny, case.model, FarTooSure(), case.batches(4), layers, kind="empirical")
    for name, factor in tiny.factors().items():
        expected = plain.factors()[name].eigenvalues * 1e-48
        assert (expected > 0).any()
        torch.testing.assert_close(factor.eigenvalues, expected, rtol=1e-3, atol=1e-58)


def test_nan_is_named_by_layer_before_eigh() -> None:
    case = cases.mlp()
    case.inputs[3, 1] = torch.nan
    with pytest.raises(CurvatureError, match=r"Layer '0'.*inputs.*not finite"):
        fit_kfac(case.model, CROSS_ENTROPY, case.batches(4), find_layers(case.model))


def test_generators_of_batches_and_unknown_kinds_are_refused() -> None:
    case = cases.mlp()
    layers = find_layers(case.model)
    with pytest.raises(CurvatureError, match="read twice"):
        fit_ekfac(case.model, CROSS_ENTROPY, iter(case.batches(4)), layers)
    with pytest.raises(ProponentError, match=r"'best'.*true, empirical, ggn"):
        fit_kfac(case.model, CROSS_ENTROPY, case.batches(4), layers, kind="best")  # type: ignore[arg-type]
    with pytest.raises(ProponentError, match="at least 1, got 0"):
        fit_kfac(case.model, CROSS_ENTROPY, case.batches(4), layers, draws=0)


def test_inputs_far_from_zero_do_not_round_away_how_they_vary() -> None:
    """Their mean rules the covariance; in float32 sums its rounding would be larger than the smaller eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    inputs = 30 + 1e-3 * torch.randn(600, 8, generator=generator)
    model = nn.Linear(8, 2)
    layers = find_layers(model)
    accumulator = CovarianceAccumulator(layers)
    for rows in inputs.split(50):
        with CaptureSession(model, layers) as session:
            outputs = session.forward(rows)
            accumulator.update([session.backward(torch.ones_like(outputs))], len(rows))
    [found] = (value[0, :-1, :-1] for key, value in accumulator.state().items() if key.startswith("inputs/"))
    expected = inputs.double().mT @ inputs.double()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
