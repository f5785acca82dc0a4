"""Fitting subspaces: random mixtures in second moments, leading eigenvectors, the joint basis; float64 oracles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import cases
from captured import capture
from curvatures import fit_ekfac
from proponent.attribution.curvature.ekfac import LambdaAccumulator
from proponent.attribution.embedding import subspace, tucker
from proponent.attribution.embedding.joint import joint_basis, leading_eigenvectors
from proponent.attribution.embedding.tucker import MomentAccumulator, fit_subspaces
from proponent.attribution.embedding.whitening import DenseWhitened, Whitening, make_whitening, rotate, whiten
from proponent.attribution.gradients import layer_gradients
from proponent.attribution.gradients.layer_gradients import squared_norms, summed_squares
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.losses import get_loss
from proponent.attribution.uniforms import example_signs

LOSS = get_loss("cross_entropy")


def fitted(case: cases.Case, damping: float = 0.1) -> tuple[Whitening, dict]:
    layers = find_layers(case.model)
    factors = fit_ekfac(case.model, LOSS, case.batches(11), layers, seed=1)
    whitening = make_whitening(factors, damping, relative=True, device=torch.device("cpu"))
    _, gradients = capture(case.model, case.inputs, lambda out: LOSS.output_gradient(out, case.labels), layers)
    return whitening, gradients


def oracle(whitening: Whitening, gradients: dict) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Second moments of unit rows from dense gradients, without mixtures, in float64."""
    whole = {}
    for name, layer in whitening.items():
        dense = gradients[name].dense().double()
        rotated = torch.einsum("goa,bgoi,gic->bgac", layer.q_out.double(), dense, layer.q_in.double())
        whole[name] = (rotated * layer.root.double()).flatten(1, 2)
    norms = torch.stack([value.square().sum(dim=(1, 2)) for value in whole.values()]).sum(dim=0).sqrt()
    units = {name: value / norms[:, None, None] for name, value in whole.items()}
    rows = {name: torch.einsum("bmi,bni->mn", u, u) for name, u in units.items()}
    return rows, {name: torch.einsum("bmi,bmj->ij", u, u) for name, u in units.items()}


@pytest.mark.parametrize("name", ["logistic", "cnn", "grouped", "twice_used"])
def test_moments_without_mixtures_are_those_of_unit_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tucker, "MIXTURES", 10**6)
    case = getattr(cases, name)(30, torch.float32)
    whitening, gradients = fitted(case)
    moments = MomentAccumulator(whitening, seed=0)
    moments.update(whitening, rotate(whitening, gradients), torch.arange(30))
    for found, expected in zip((moments.rows, moments.columns), oracle(whitening, gradients), strict=True):
        for layer, moment in found.items():
            torch.testing.assert_close(moment, expected[layer], rtol=1e-4, atol=1e-5)


def test_mixtures_estimate_moments_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over many seeds closes in on the oracle as one over the root of their number."""
    monkeypatch.setattr(tucker, "MIXTURES", 2)
    whitening, gradients = fitted(cases.mlp(30, torch.float32))
    _, expected = oracle(whitening, gradients)
    name = max(expected, key=lambda layer: whitening[layer].root.shape[1] * len(expected[layer]))
    assert whitening[name].root.shape[1] > 2
    errors = []
    for seeds in (10, 1000):
        mean = torch.zeros_like(expected[name])
        for seed in range(seeds):
            moments = MomentAccumulator(whitening, seed=1000 * seed)
            moments.update(whitening, rotate(whitening, gradients), torch.arange(30))
            mean += moments.columns[name] / seeds
        errors.append(float((mean - expected[name]).norm() / expected[name].norm()))
    assert errors[0] < 0.2
    assert errors[1] < errors[0] / 5


def test_mixtures_do_not_depend_on_the_batch() -> None:
    case = cases.cnn(24, torch.float32)
    layers = find_layers(case.model)
    whitening, gradients = fitted(case)
    whole, parts = MomentAccumulator(whitening, seed=5), MomentAccumulator(whitening, seed=5)
    keys = torch.arange(24) * 7919
    whole.update(whitening, rotate(whitening, gradients), keys)
    for start in (16, 8, 0):
        some = slice(start, start + 8)
        _, few = capture(
            case.model, case.inputs[some], lambda out, some=some: LOSS.output_gradient(out, case.labels[some]), layers
        )
        parts.update(whitening, rotate(whitening, few), keys[some])
    for name, moment in whole.state().items():
        torch.testing.assert_close(parts.state()[name], moment, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "cnn", "grouped", "twice_used"])
def test_wide_layers_are_taken_some_examples_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same sums; layers applied at one position have no dense gradients."""
    case = getattr(cases, name)(24, torch.float32)
    whitening, gradients = fitted(case)
    bases = fit_ekfac(case.model, LOSS, case.batches(24), find_layers(case.model), seed=1)
    states = []
    for at_once in (1 << 20, 1):
        monkeypatch.setattr(layer_gradients, "AT_ONCE", at_once)
        moments, eigenvalues = MomentAccumulator(whitening, seed=5), LambdaAccumulator(bases)
        moments.update(whitening, rotate(whitening, gradients), torch.arange(24))
        eigenvalues.update([gradients], 24)
        states.append(moments.state() | eigenvalues.state())
    for key, expected in states[0].items():
        torch.testing.assert_close(states[1][key], expected, rtol=1e-4, atol=1e-6)
    parts = [len(gradient.slices()) for gradient in gradients.values()]
    assert parts == [24 if gradient.positions > 1 else 1 for gradient in gradients.values()]


@pytest.mark.parametrize("name", ["logistic", "cnn", "grouped", "twice_used"])
def test_norms_of_outer_products_are_those_of_the_dense_matrix(name: str) -> None:
    whitening, gradients = fitted(getattr(cases, name)(12, torch.float32))
    for layer, value in whiten(whitening, gradients):
        dense = DenseWhitened(value.dense(), whitening[layer].root)
        for found, expected in ((value.energy(), dense.energy()), (value.damped_energy(), dense.damped_energy())):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
        weights = torch.randn(
            12, 3, whitening[layer].root.shape[:2].numel(), generator=torch.Generator().manual_seed(0)
        )
        torch.testing.assert_close(value.mix_outputs(weights), dense.mix_outputs(weights), rtol=1e-4, atol=1e-5)
        weights = torch.randn(12, 3, whitening[layer].root.shape[2], generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(value.mix_inputs(weights), dense.mix_inputs(weights), rtol=1e-4, atol=1e-5)
        _, o, i = whitening[layer].root.shape
        for out, inputs in ((torch.arange(o), torch.arange(1, i)), (torch.arange(o // 2, o), torch.arange(i))):
            expected = value.dense()[:, :, out][..., inputs]
            torch.testing.assert_close(value.select(out, inputs), expected)
            torch.testing.assert_close(dense.select(out, inputs), expected)


@pytest.mark.parametrize("name", ["logistic", "cnn", "grouped", "twice_used"])
def test_projections_do_not_depend_on_how_eigenvectors_are_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ways to leave eigenvectors out; both give what a query's projection gives."""
    whitening, gradients = fitted(getattr(cases, name)(30, torch.float32))
    moments = MomentAccumulator(whitening, seed=0)
    moments.update(whitening, rotate(whitening, gradients), torch.arange(30))
    subspaces = fit_subspaces(moments.sides(), whitening, 12)
    for layer, value in whiten(whitening, gradients):
        online = subspaces[layer].project(gradients[layer])
        results = []
        monkeypatch.setattr(subspace, "MANY", 0)
        for narrow in (10**9, 0):
            monkeypatch.setattr(subspace, "NARROW", narrow)
            results.append(subspaces[layer].compress_all(value, whitening[layer].root))
        for gathered, zeroed in zip(*results, strict=True):
            torch.testing.assert_close(gathered, zeroed, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(results[0][0], online, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "grouped", "twice_used"])
@pytest.mark.parametrize("damping", [0.1, 100.0])
def test_queries_leave_out_what_the_damping_outweighs(name: str, damping: float) -> None:
    """Within the bound of ``FLAT`` for every example, and with fewer eigenvectors where the damping is large."""
    whitening, gradients = fitted(getattr(cases, name)(30, torch.float32), damping)
    moments = MomentAccumulator(whitening, seed=0)
    moments.update(whitening, rotate(whitening, gradients), torch.arange(30))
    neglected = 0
    for layer, value in whiten(whitening, gradients):
        full = fit_subspaces(moments.sides(), whitening, 12)[layer]
        query = subspace.QueryProjection.of(full)
        error = (query.project(gradients[layer]) - full.project(gradients[layer])).norm(dim=1)
        assert bool((error <= subspace.FLAT * value.energy().sqrt() + 1e-5).all())
        neglected += full.right.shape[2] - query.columns.shape[0]
    assert neglected > 0 or damping < 1


@pytest.mark.parametrize("damping", [0.1, 100.0])
def test_outer_products_are_projected_by_a_few_vectors_of_each_side(damping: float) -> None:
    """Within the bound of ``FLAT`` for every example; gradients of several positions are left to others."""
    whitening, gradients = fitted(cases.mlp(30, torch.float32), damping)
    moments = MomentAccumulator(whitening, seed=0)
    moments.update(whitening, rotate(whitening, gradients), torch.arange(30))
    taken = []
    for layer, value in whiten(whitening, gradients):
        full = fit_subspaces(moments.sides(), whitening, 12)[layer]
        outer = subspace.OuterProjection.of(full, full)
        if outer is None:
            continue
        taken.append(layer)
        error = (outer.project(gradients[layer]) - full.project(gradients[layer])).norm(dim=1)
        assert bool((error <= subspace.FLAT * value.energy().sqrt() + 1e-5).all())
        assert outer.left.shape[1] <= full.left.shape[2] // 2 * full.rows.shape[1]
        of_two = replace(gradients[layer], uses=2 * gradients[layer].uses)
        assert torch.equal(outer.project(of_two), full.project(of_two))
    assert len(taken) > 0 or damping < 1


def test_a_layer_that_takes_no_part_is_fitted_like_any_other() -> None:
    """No positions, no gradient, no energy: every pass over a rebuild's layers takes it."""

    class WithIdle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.grouped = nn.Linear(4, 3), nn.Linear(4, 3), nn.Conv2d(4, 4, 2, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    torch.manual_seed(0)
    case = cases.Case(WithIdle(), torch.randn(12, 4), torch.arange(12) % 3)
    whitening, gradients = fitted(case)
    values = dict(whiten(whitening, gradients))
    moments = MomentAccumulator(whitening, seed=0)
    moments.update(whitening, rotate(whitening, gradients), torch.arange(12))
    for name in ("idle", "grouped"):
        assert not values[name].dense().any() and not values[name].energy().any()
        assert not moments.rows[name].any() and not moments.columns[name].any()
        assert not any(part.any() for part in gradients[name].sum_and_squares())
    subspaces = fit_subspaces(moments.sides(), whitening, 20)
    for name, of in subspaces.items():
        projected = of.project(gradients[name])
        expected, _ = of.compress_all(values[name], whitening[name].root)
        torch.testing.assert_close(projected, expected, rtol=1e-4, atol=1e-5)
    assert subspaces["used"].project(gradients["used"]).any()


@pytest.mark.parametrize("size", [1.0, 1e-18, 1e15])
def test_sums_of_squares_keep_small_numbers(size: float) -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)) * size
    exact = values.double().square()
    torch.testing.assert_close(summed_squares(values), exact.sum(dim=0), rtol=1e-5, atol=0)
    torch.testing.assert_close(squared_norms(values), exact.sum(dim=(1, 2)), rtol=1e-5, atol=0)
    spread = torch.tensor([[1.0, 1e-12], [1e-3, 1e-15]])
    torch.testing.assert_close(summed_squares(spread), spread.double().square().sum(dim=0), rtol=1e-5, atol=0)
    assert not summed_squares(torch.zeros(2, 3)).any() and not squared_norms(torch.zeros(2, 3)).any()


def test_signs_depend_on_seed_and_id_only_and_look_random() -> None:
    ids = torch.tensor([5, -3, 2**40, 0])
    whole = example_signs(ids, seed=7, size=10_000)
    assert torch.equal(example_signs(ids.flip(0), seed=7, size=10_000).flip(0), whole)
    assert torch.equal(example_signs(ids, seed=7, size=100), whole[:, :100])
    assert torch.equal(whole.abs(), torch.ones_like(whole))
    streams = torch.cat([whole, example_signs(ids, seed=8, size=10_000), example_signs(ids + 1, seed=7, size=10_000)])
    correlations = streams @ streams.T / 10_000 - torch.eye(12)
    assert float(correlations.abs().max()) < 0.05
    assert float(streams.mean(dim=1).abs().max()) < 0.05
    shifted = (whole[:, 1:] * whole[:, :-1]).mean(dim=1)
    assert float(shifted.abs().max()) < 0.05


@pytest.mark.parametrize("size", [5, 40, 200])
def test_leading_eigenvectors_keep_what_the_best_ones_keep(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(600, 600, generator=generator, dtype=torch.float64))[0]
    values = 0.97 ** torch.arange(600, dtype=torch.float64)
    matrix = (basis * values) @ basis.T
    found = leading_eigenvectors(matrix, size, generator)
    torch.testing.assert_close(found.T @ found, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-10)
    kept = float((found.T @ matrix @ found).trace())
    assert kept >= 0.985 * float(values[:size].sum())


@pytest.mark.parametrize(("rank", "size"), [(40, 20), (150, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_eigenvectors_of_low_rank_are_orthonormal(rank: int, size: int, dtype: torch.dtype) -> None:
    """The Krylov space is wider than the matrix has directions."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(900, rank, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T / 900
    found = leading_eigenvectors(matrix.to(dtype), size, generator).double()
    torch.testing.assert_close(found.T @ found, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-4)
    best = torch.linalg.eigvalsh(matrix).flip(0)[:size].sum()
    assert float((found.T @ matrix @ found).trace()) >= 0.995 * float(best)


def test_joint_basis_keeps_raw_rows_of_very_different_sizes() -> None:
    """Also where these span ten orders of magnitude, which products of float32 numbers alone would lose."""
    generator = torch.Generator().manual_seed(1)
    unit = torch.nn.functional.normalize(torch.randn(300, 1000, generator=generator), dim=1)
    scales = 10.0 ** torch.linspace(0, -10, 300, dtype=torch.float64)
    basis = joint_basis(unit, torch.ones(300, dtype=torch.float64), scales, 60, seed=0).double()
    torch.testing.assert_close(basis.T @ basis, torch.eye(60, dtype=torch.float64), rtol=0, atol=1e-5)
    kept = (unit.double() @ basis).square().sum(dim=1)
    assert float(kept[:15].min()) > 0.999


def oracle_basis(unit: Tensor, scales: Tensor, size: int) -> Tensor:
    """Singular vectors of raw rows, then those of what they leave of unit rows."""
    first = torch.linalg.svd(scales[:, None] * unit, full_matrices=False)[2][: round(size / 3)].T
    rest = unit - unit @ first @ first.T
    second = torch.linalg.svd(rest, full_matrices=False)[2][: size - round(size / 3)].T
    return torch.cat([first, second], dim=1)


def test_joint_basis_keeps_what_singular_vectors_keep() -> None:
    generator = torch.Generator().manual_seed(4)
    decay = 0.98 ** torch.arange(1000, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(300, 1000, generator=generator).double() * decay, dim=1)
    scales = torch.rand(300, generator=generator, dtype=torch.float64) ** 3
    norms = 1 + torch.rand(300, generator=generator, dtype=torch.float64)
    found = joint_basis((unit * norms[:, None]).float(), norms, scales / norms, 60, seed=0).double()
    best = oracle_basis(unit, scales, 60)
    for rows in (unit, scales[:, None] * unit):
        kept, most = (float((rows @ basis).square().sum()) for basis in (found, best))
        assert kept == pytest.approx(most, rel=2e-3)


def test_places_that_raw_rows_do_not_need_go_to_unit_rows() -> None:
    generator = torch.Generator().manual_seed(5)
    decay = 0.97 ** torch.arange(200, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(80, 200, generator=generator).double() * decay, dim=1)
    scales = torch.zeros(80, dtype=torch.float64)
    scales[[7, 50]] = 1.0
    found = joint_basis(unit.float(), torch.ones(80, dtype=torch.float64), scales, 30, seed=0).double()
    raw = torch.linalg.qr(unit[[7, 50]].T)[0]
    left = torch.linalg.svdvals(unit - unit @ raw @ raw.T)[: 30 - 2]
    best = float((unit @ raw).square().sum() + left.square().sum())
    assert float((unit @ found).square().sum()) == pytest.approx(best, rel=1e-4)


def test_joint_basis_takes_rows_without_direction_and_fewer_rows_than_k() -> None:
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(2))
    rows[1] = 0
    basis = joint_basis(rows, rows.double().norm(dim=1), torch.ones(4, dtype=torch.float64), 20, seed=0)
    assert basis.shape == (50, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close((rows @ basis).norm(dim=1), rows.norm(dim=1))


@pytest.mark.parametrize("distinct", [1, 3, 15])
def test_joint_basis_keeps_all_of_fewer_directions_than_it_has(distinct: int) -> None:
    """Of many equal rows, or where few have a gradient: what rounding leaves of nothing takes no direction away."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(distinct, 200, generator=generator)[torch.arange(300) % distinct]
    scales = torch.rand(300, generator=generator, dtype=torch.float64) + 0.01
    basis = joint_basis(rows, rows.double().norm(dim=1), scales, 60, seed=0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(60), rtol=0, atol=1e-5)
    torch.testing.assert_close((rows @ basis).norm(dim=1), rows.norm(dim=1))


def test_a_row_below_single_precision_takes_no_part() -> None:
    """Its norm is the product of two small numbers in float64, and its numbers are zero."""
    rows = torch.randn(6, 20, generator=torch.Generator().manual_seed(3))
    rows[2] = 0
    norms = rows.double().norm(dim=1)
    ones = torch.ones(6, dtype=torch.float64)
    expected = joint_basis(rows, norms, ones, 4, seed=0)
    norms[2] = 1e-60
    assert torch.equal(joint_basis(rows, norms, ones, 4, seed=0), expected)
