"""Inner products of embedded gradients are the influences of the one operator they claim, in size, norms and sign."""

from __future__ import annotations

import copy
import decimal
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import cases
import oracle
from curvatures import fit_ekfac, fit_kfac
from proponent.attribution.curvature.exact import eigendecompose, exact_hessian
from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.embedding.base import (
    EmbeddedRows,
    ExactEmbedding,
    ExactFactors,
    exact_factors,
    order_by_energy,
    size_for_energy,
)
from proponent.attribution.embedding.joint import SecondStage, damped_gram, joint_basis, second_stage
from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.tucker import ENOUGH, MomentAccumulator, Side, Sides, fit_subspaces
from proponent.attribution.embedding.whitening import DenseWhitened, make_whitening, rotate, whiten
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.layers import Layers, find_layers, num_parameters, split_flat
from proponent.attribution.gradients.scaling import (
    ScaledGradient,
    contrast_output_gradient,
    scaled_output_gradient,
)
from proponent.attribution.losses import get_loss
from proponent.errors import CurvatureError

CROSS_ENTROPY = get_loss("cross_entropy")
WEIGHT_DECAY = 0.02
PROMISED = 1e-3
"""Error of a score, in units of ||phi_test|| ||phi_i||."""
FLOAT32 = 2e-5
"""What float32 alone may cost on problems this small, in the same units."""
DAMPING = 0.1
SECOND_DAMPING = 0.3


def captured(case: cases.Case, part: slice = slice(None)) -> tuple[ScaledGradient, LayerGradients]:
    layers = find_layers(case.model)
    with CaptureSession(case.model, layers) as session:
        scaled = scaled_output_gradient(CROSS_ENTROPY, session.forward(case.inputs[part]), case.labels[part])
        return scaled, session.backward(scaled.unit)


def doubled(case: cases.Case) -> cases.Case:
    return cases.Case(copy.deepcopy(case.model).double(), case.inputs.double(), case.labels)


def dense_gradients(case: cases.Case) -> tuple[Tensor, list[tuple[str, tuple[int, ...]]]]:
    """Float64 gradients ``[B, P]`` by vmap(grad), and the order of their entries."""
    case = doubled(case)
    entries = oracle.order(case.model, {name: shape.groups for name, shape in find_layers(case.model).items()})
    named = oracle.per_example_gradients(case.model, CROSS_ENTROPY.per_example, case.inputs, case.labels)
    return oracle.flat(named, entries), entries


def check_scores(found: Tensor, expected: Tensor, norms: Tensor, tolerance: float) -> None:
    """``found`` and ``expected`` are all pairs' scores, ``norms`` the lengths of the exact phi."""
    error = (found.double() - expected).abs() / (norms[:, None] * norms[None, :])
    assert float(error.max()) <= tolerance


def check_same(found: Tensor, expected: Tensor) -> None:
    """Rows that differ by rounding alone, each measured against its own length."""
    norms = expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found / norms, expected / norms, rtol=0, atol=FLOAT32)


# Exact curvature --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact:
    """A float64 truth: gradients and the inverse Hessian, both by autograd."""

    case: cases.Case
    gradients: Tensor
    hessian: Tensor

    @property
    def influence(self) -> Tensor:
        return self.gradients @ torch.linalg.solve(self.hessian, self.gradients.T)

    @property
    def ihvp_norms(self) -> Tensor:
        return torch.linalg.solve(self.hessian, self.gradients.T).norm(dim=0)


@pytest.fixture(params=[cases.logistic, cases.binary_logistic], ids=["softmax", "wide"])
def exact(request: pytest.FixtureRequest) -> Exact:
    if request.param is cases.logistic:
        case = cases.logistic(30, torch.float32)
    else:
        base = cases.binary_logistic(40, torch.float32)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            case = cases.Case(nn.Sequential(nn.Linear(5, 4)), base.inputs * 2, torch.arange(40) % 4)
    gradients, entries = dense_gradients(case)
    truth = doubled(case)
    hessian = oracle.objective_hessian(
        truth.model, CROSS_ENTROPY.per_example, truth.inputs, truth.labels, entries, WEIGHT_DECAY
    )
    return Exact(case, gradients, hessian)


def whole_factors(case: cases.Case) -> ExactFactors:
    layers = find_layers(case.model)
    hessian = exact_hessian(case.model, CROSS_ENTROPY, case.batches(7), layers, weight_decay=WEIGHT_DECAY)
    return exact_factors(*eigendecompose(hessian), 0.0, layers)


def exact_rows(factors: ExactFactors, case: cases.Case, size: int) -> EmbeddedRows:
    """Rows with the gradients' own sizes put back."""
    scaled, gradients = captured(case)
    return put_back(factors.rows(gradients, size), scaled.scale)


def put_back(rows: EmbeddedRows, scale: Tensor) -> EmbeddedRows:
    return EmbeddedRows(
        rows.phi * scale[:, None].to(rows.phi),
        rows.self_influence * scale**2,
        rows.ihvp_norms * scale,
        rows.kept_energy,
    )


def test_exact_scores_are_those_of_autograds_hessian_for_all_measures(exact: Exact) -> None:
    factors = whole_factors(exact.case)
    rows = exact_rows(factors, exact.case, len(factors.damped))
    norms = exact.influence.diagonal().sqrt()
    products = rows.phi.double() @ rows.phi.double().T
    check_scores(products, exact.influence, norms, FLOAT32)
    theta, expected_theta = products / rows.ihvp_norms, exact.influence / exact.ihvp_norms
    scale = norms[:, None] * norms / exact.ihvp_norms
    assert float(((theta - expected_theta).abs() / scale).max()) <= FLOAT32
    l_relatif, expected_l = products / rows.self_influence.sqrt(), exact.influence / norms
    assert float(((l_relatif - expected_l).abs() / norms[:, None]).max()) <= FLOAT32
    torch.testing.assert_close(rows.kept_energy, torch.ones_like(norms), rtol=0, atol=0)


def test_exact_norms_are_dense_norms_whatever_k_is(exact: Exact) -> None:
    factors = whole_factors(exact.case)
    for size in (1, 5, len(factors.damped)):
        rows = exact_rows(factors, exact.case, size)
        assert rows.phi.shape == (len(exact.case.labels), size)
        torch.testing.assert_close(rows.self_influence, exact.influence.diagonal(), rtol=1e-5, atol=0)
        torch.testing.assert_close(rows.ihvp_norms, exact.ihvp_norms, rtol=1e-5, atol=0)


def test_online_and_offline_embeddings_are_the_same(exact: Exact) -> None:
    factors = whole_factors(exact.case)
    _, gradients = captured(exact.case)
    stored = ExactEmbedding.from_tensors(factors.truncated(9).tensors(), factors.layers)
    assert stored.size == 9
    check_same(stored.embed(gradients), factors.rows(gradients, 9).phi)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_energy_keeps_the_coordinates_that_matter_most(exact: Exact, share: float) -> None:
    eigenvalues, vectors = torch.linalg.eigh(exact.hessian)
    coordinates = exact.gradients @ vectors / eigenvalues.sqrt()
    energy = coordinates.square().mean(dim=0)
    ranked = energy.sort(descending=True)
    size = int((ranked.values.cumsum(0) < share * energy.sum()).sum()) + 1
    kept = coordinates[:, ranked.indices[:size]]

    factors = whole_factors(exact.case)
    all_rows = exact_rows(factors, exact.case, len(energy))
    found = all_rows.phi.double().square().mean(dim=0)
    assert size_for_energy(found, share) == size
    rows = exact_rows(order_by_energy(factors, found), exact.case, size)
    norms = exact.influence.diagonal().sqrt()
    check_scores(rows.phi.double() @ rows.phi.double().T, kept @ kept.T, norms, FLOAT32)
    expected = kept.square().sum(1) / coordinates.square().sum(1)
    torch.testing.assert_close(rows.kept_energy, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows.self_influence, exact.influence.diagonal(), rtol=1e-5, atol=0)


def test_damping_is_added_to_every_eigenvalue(exact: Exact) -> None:
    damped = Exact(exact.case, exact.gradients, exact.hessian + 0.3 * torch.eye(len(exact.hessian)))
    layers = find_layers(exact.case.model)
    hessian = exact_hessian(exact.case.model, CROSS_ENTROPY, exact.case.batches(7), layers, weight_decay=WEIGHT_DECAY)
    rows = exact_rows(exact_factors(*eigendecompose(hessian), 0.3, layers), exact.case, len(hessian))
    torch.testing.assert_close(rows.self_influence, damped.influence.diagonal(), rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.ihvp_norms, damped.ihvp_norms, rtol=1e-5, atol=0)


def test_the_share_of_energy_is_counted_in_whole_coordinates() -> None:
    energy = torch.tensor([1.0, 4.0, 3.0, 2.0]).double()
    assert [size_for_energy(energy, share) for share in (0.1, 0.4, 0.41, 0.7, 0.9, 0.95, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
        4,
        4,
    ]
    with pytest.raises(CurvatureError, match="every training gradient is zero"):
        size_for_energy(torch.zeros(3), 0.9)


# Scaled gradients -------------------------------------------------------------------------------------------


def decimal_gradient(logits: list[float], label: int) -> list[decimal.Decimal]:
    """``p - onehot`` with 80 digits."""
    with decimal.localcontext() as context:
        context.prec = 80
        powers = [decimal.Decimal(z).exp() for z in logits]
        return [power / sum(powers) - (c == label) for c, power in enumerate(powers)]


@pytest.mark.parametrize("margin", [5.0, 20.0, 40.0, 65.0])
def test_the_gradient_of_a_confident_model_keeps_its_direction_and_size(margin: float) -> None:
    """Beyond a margin of about 17 float32's p_y - 1 is zero, beyond about 37 float64's is."""
    logits = [margin, 0.0, -1.5, 0.25]
    exact = decimal_gradient(logits, 0)
    largest = max(abs(entry) for entry in exact)
    found = scaled_output_gradient(CROSS_ENTROPY, torch.tensor([logits]), torch.tensor([0]))
    assert found.unit.dtype == torch.float32
    assert float(found.scale) == pytest.approx(float(largest), rel=1e-12)
    assert found.unit[0].tolist() == pytest.approx([float(entry / largest) for entry in exact], rel=1e-6)
    assert bool(found.has_direction)


def test_a_confident_models_embedding_points_where_float64_says() -> None:
    """The whole path: weights so large that plain float32 gradients vanish."""
    case = cases.logistic(8, torch.float32)
    with torch.no_grad():
        case.model[1].weight.mul_(60)
    case = cases.Case(case.model, case.inputs, case.model(case.inputs).argmax(1))
    logits = doubled(case).model(case.inputs.double()).tolist()
    features = torch.nn.functional.pad(case.inputs.double().flatten(1), (0, 1), value=1.0)
    factors = whole_factors(cases.logistic(30, torch.float32))
    scaled, gradients = captured(case)
    rows = factors.rows(gradients, len(factors.damped))
    assert float(scaled.scale.min()) < 1e-9
    for b, label in enumerate(case.labels.tolist()):
        exact = decimal_gradient(logits[b], label)
        largest = max(abs(entry) for entry in exact)
        unit = torch.tensor([float(entry / largest) for entry in exact], dtype=torch.float64)
        phi = torch.outer(unit, features[b]).flatten() @ factors.whitening.double()
        assert float(scaled.scale[b]) == pytest.approx(float(largest), rel=1e-4)
        torch.testing.assert_close(rows.phi[b].double(), phi, rtol=1e-4, atol=1e-4 * float(phi.norm()))


def test_no_gradient_has_no_direction() -> None:
    hinge = get_loss("hinge")
    outputs = torch.tensor([[5.0, 0.0], [0.2, 0.0]])
    found = scaled_output_gradient(hinge, outputs, torch.tensor([0, 0]))
    assert found.scale.tolist() == [0.0, 1.0]
    assert found.has_direction.tolist() == [False, True]
    assert found.unit.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_output_is_scaled_too(shape: tuple[int, ...]) -> None:
    outputs = torch.tensor([50.0, -1.0, 0.0]).reshape(shape)
    found = scaled_output_gradient(get_loss("bce"), outputs, torch.tensor([1, 1, 0]))
    assert found.unit.shape == shape
    assert found.unit.flatten().tolist() == [-1.0, -1.0, 1.0]
    expected = [torch.sigmoid(torch.tensor(z).double()).item() for z in (-50.0, 1.0, 0.0)]
    assert found.scale.tolist() == pytest.approx(expected, rel=1e-12)


def test_some_of_a_batch_can_be_replaced() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 0.5]])
    other = scaled_output_gradient(CROSS_ENTROPY, outputs, torch.tensor([0, 0, 0]))
    found = scaled_output_gradient(CROSS_ENTROPY, outputs, torch.tensor([1, 1, 0]))
    found = found.replaced(torch.tensor([True, True, False]), other)
    assert torch.equal(found.unit, other.unit) and torch.equal(found.scale, other.scale)


def test_a_contrast_is_the_difference_of_two_losses_and_its_proponents_argue_for_the_first() -> None:
    case = cases.logistic(30, torch.float32)
    factors, layers = whole_factors(case), find_layers(case.model)
    size = len(factors.damped)
    query = case.inputs[:1]
    with CaptureSession(case.model, layers) as session:
        outputs = session.forward(query)
        a, b = torch.tensor([0]), torch.tensor([2])
        phis = []
        for scaled in (
            contrast_output_gradient(CROSS_ENTROPY, outputs, a, b),
            scaled_output_gradient(CROSS_ENTROPY, outputs, a),
            scaled_output_gradient(CROSS_ENTROPY, outputs, b),
        ):
            phis.append(factors.truncated(size).embed(session.backward(scaled.unit))[0].double() * scaled.scale)
    torch.testing.assert_close(phis[0], phis[1] - phis[2], rtol=1e-5, atol=1e-6)
    for label, sign in ((0, 1), (2, -1)):
        twin = cases.Case(case.model, query, torch.tensor([label]))
        score = float(exact_rows(factors, twin, size).phi[0].double() @ phis[0])
        assert sign * score > 0


def test_a_twin_is_a_proponent() -> None:
    """The one sign convention: the same input with the same label argues for, with another label against."""
    case = cases.logistic(30, torch.float32)
    factors = whole_factors(case)
    size = len(factors.damped)
    query = exact_rows(factors, cases.Case(case.model, case.inputs[:1], torch.tensor([1])), size).phi[0]
    for label in range(3):
        twin = exact_rows(factors, cases.Case(case.model, case.inputs[:1], torch.tensor([label])), size).phi[0]
        assert (float(twin @ query) > 0) == (label == 1)


# The subspace of K-FAC and EK-FAC ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """The stages by the code under test, on one batch."""

    case: cases.Case
    layers: Layers
    factors: dict[str, LayerFactors]
    subspaces: dict[str, LayerSubspace]
    basis: Tensor
    stage: SecondStage
    embedding: SubspaceEmbedding
    rows: EmbeddedRows
    scale: Tensor


def fit(case: cases.Case, kind: str, subspace_size: int, size: int) -> Fitted:
    layers = find_layers(case.model)
    factors = (fit_kfac if kind == "kfac" else fit_ekfac)(case.model, CROSS_ENTROPY, case.batches(11), layers, seed=1)
    whitening = make_whitening(factors, DAMPING, relative=True, device=torch.device("cpu"))
    scaled, gradients = captured(case)
    moments = MomentAccumulator(whitening, seed=3)
    moments.update(whitening, rotate(whitening, gradients), torch.arange(len(scaled.scale)))
    subspaces = fit_subspaces(moments.sides(), whitening, subspace_size)
    z = torch.cat([subspace.project(gradients[name]) for name, subspace in subspaces.items()], dim=1)
    energy = sum(value.energy() for _, value in whiten(whitening, gradients))
    basis = joint_basis(z, energy.sqrt(), scaled.scale, size, seed=2)
    y = z @ basis
    whitened = dict(whiten(whitening, gradients))
    weighted = [s.compress_all(whitened[name], whitening[name].root)[1] for name, s in subspaces.items()]
    crossed = torch.cat(weighted, dim=1) @ basis
    damped_energy = sum(value.damped_energy() for value in whitened.values())
    moment = (y.double() * scaled.scale[:, None]).T @ y.double() / len(y)
    outside = float(((energy - y.double().square().sum(1)) * scaled.scale).mean())
    stage = second_stage(moment, outside, damped_gram(subspaces, basis), num_parameters(layers), SECOND_DAMPING)
    embedding = SubspaceEmbedding(layers, subspaces, (basis.double() @ stage.root).float(), kind)
    rows = put_back(stage.rows(y, crossed, energy, damped_energy), scaled.scale)
    return Fitted(case, layers, factors, subspaces, basis, stage, embedding, rows, scaled.scale)


@dataclass(frozen=True)
class Dense:
    """The same operator as dense float64 matrices: w = root(D) Q^T g, and V in the coordinates of w.

    Rows weigh in M by one over the largest entry of their output gradient.
    """

    whitened: Tensor
    weights: Tensor
    damped: Tensor
    v: Tensor

    @property
    def m(self) -> Tensor:
        y = self.whitened @ self.v
        return (y * self.weights[:, None]).T @ y / len(y)

    @property
    def c(self) -> float:
        return SECOND_DAMPING * float(self.m.trace()) / len(self.m)

    @property
    def a(self) -> float:
        parameters, size = self.v.shape
        outside = self.weights @ (self.whitened.square().sum(1) - (self.whitened @ self.v).square().sum(1))
        return 1 / (float(outside) / len(self.whitened) / max(parameters - size, 1) + self.c)

    @property
    def middle(self) -> Tensor:
        """``V (M + c I)^-1 V^T + a (I - V V^T)``."""
        inverse = torch.linalg.inv(self.m + self.c * torch.eye(len(self.m)))
        projector = self.v @ self.v.T
        return self.v @ inverse @ self.v.T + self.a * (torch.eye(len(projector)) - projector)

    @property
    def kernel(self) -> Tensor:
        """Scores of all pairs: without the a-term."""
        y = self.whitened @ self.v
        return y @ torch.linalg.solve(self.m + self.c * torch.eye(len(self.m)), y.T)


def dense_operator(fitted: Fitted) -> Dense:
    gradients, _ = dense_gradients(fitted.case)
    whitened, damped, lifted = [], [], []
    start = 0
    for name, matrices in split_flat(gradients, fitted.layers).items():
        layer, subspace = fitted.factors[name], fitted.subspaces[name]
        q_out, q_in, values = layer.q_out.double(), layer.q_in.double(), layer.eigenvalues.double()
        d = values + DAMPING * values.mean()
        whitened.append((torch.einsum("goa,bgoi,gic->bgac", q_out, matrices, q_in) / d.sqrt()).flatten(1))
        damped.append(d.flatten())
        lifted.append(place(subspace, fitted.basis[start : start + subspace.size], q_out, q_in, d))
        start += subspace.size
    return Dense(torch.cat(whitened, 1), 1 / fitted.scale, torch.cat(damped), torch.cat(lifted, 0))


def place(subspace: LayerSubspace, basis: Tensor, q_out: Tensor, q_in: Tensor, d: Tensor) -> Tensor:
    """V's part of a layer, ``[G o i, K]``; which eigenvectors the layer kept is seen from their values."""
    out = (subspace.left[0].double().T @ q_out[0]).abs().argmax(dim=1)
    inputs = (subspace.right[0].double().T @ q_in[0]).abs().argmax(dim=1)
    groups, o, i = d.shape
    rows = subspace.rows.double().reshape(groups, len(out), -1)
    coordinates = basis.double().reshape(rows.shape[2], subspace.columns.shape[1], -1)
    small = torch.einsum("gsr,rck,tc->gstk", rows, coordinates, subspace.columns.double())
    whole = torch.zeros(groups, o, i, basis.shape[1], dtype=torch.float64)
    whole[:, out[:, None], inputs[None, :]] = small
    return whole.flatten(0, 2)


CASES = [("logistic", 40), ("mlp", 60), ("cnn", 60), ("grouped", 180)]


def make(name: str, count: int) -> cases.Case:
    return cases.MODELS[name](count, torch.float32)


@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
@pytest.mark.parametrize(("name", "count"), CASES)
def test_at_full_size_the_kernel_is_the_dense_operator(name: str, count: int, kind: str) -> None:
    case = make(name, count)
    parameters = num_parameters(find_layers(case.model))
    fitted = fit(case, kind, subspace_size=parameters, size=parameters)
    dense = dense_operator(fitted)
    assert fitted.embedding.size == parameters
    torch.testing.assert_close(dense.v.T @ dense.v, torch.eye(parameters).double(), rtol=0, atol=1e-5)
    m = (dense.whitened * dense.weights[:, None]).T @ dense.whitened / count
    c = SECOND_DAMPING * m.trace() / parameters
    kernel = dense.whitened @ torch.linalg.solve(m + c * torch.eye(parameters), dense.whitened.T)
    norms = kernel.diagonal().sqrt()
    check_scores(fitted.rows.phi.double() @ fitted.rows.phi.double().T, kernel, norms, 1e-4)
    torch.testing.assert_close(fitted.rows.self_influence, kernel.diagonal(), rtol=1e-4, atol=0)
    ihvp = torch.linalg.solve(m + c * torch.eye(parameters), dense.whitened.T).T / dense.damped.sqrt()
    torch.testing.assert_close(fitted.rows.ihvp_norms, ihvp.norm(dim=1), rtol=1e-3, atol=0)
    torch.testing.assert_close(fitted.rows.kept_energy, torch.ones_like(norms), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(("name", "count"), CASES)
def test_below_full_size_scores_and_norms_are_those_of_the_implied_operator(
    name: str, count: int, share: float
) -> None:
    case = make(name, count)
    parameters = num_parameters(find_layers(case.model))
    fitted = fit(case, "ekfac", subspace_size=int(share * parameters), size=int(share * parameters / 2))
    dense = dense_operator(fitted)
    assert sum(subspace.size for subspace in fitted.subspaces.values()) <= max(
        int(share * parameters), len(fitted.subspaces)
    )
    torch.testing.assert_close(dense.v.T @ dense.v, torch.eye(dense.v.shape[1]).double(), rtol=0, atol=1e-5)
    norms = dense.kernel.diagonal().sqrt()
    check_scores(fitted.rows.phi.double() @ fitted.rows.phi.double().T, dense.kernel, norms.clamp(min=1e-9), PROMISED)
    inner = dense.whitened @ dense.middle
    unit = max(float(f.eigenvalues.mean()) for f in fitted.factors.values()) * (1 + DAMPING)
    assert fitted.stage.residual * unit == pytest.approx(dense.a, rel=1e-3)
    torch.testing.assert_close(fitted.rows.self_influence, (inner * dense.whitened).sum(dim=1), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(
        fitted.rows.ihvp_norms, (inner / dense.damped.sqrt()).norm(dim=1), rtol=2e-3, atol=1e-8
    )
    kept = (dense.whitened @ dense.v).square().sum(1) / dense.whitened.square().sum(1)
    torch.testing.assert_close(fitted.rows.kept_energy, kept, rtol=1e-3, atol=1e-4)


def test_numbers_end_where_they_keep_enough() -> None:
    """Two layers of ten directions whose energies fall by half: the first ones keep 95 % of it."""
    identity = torch.eye(10, dtype=torch.float64)[None]
    factors = {name: LayerFactors(identity, identity, torch.ones(1, 10, 10, dtype=torch.float64)) for name in "ab"}
    whitening = make_whitening(factors, 0.0, relative=False, device=torch.device("cpu"))
    energies = Side.of(torch.diag(0.5 ** torch.arange(10, dtype=torch.float64)))
    sides = {name: Sides(energies, energies) for name in "ab"}

    def numbers_and_energy(least: int | None) -> tuple[int, float]:
        found = fit_subspaces(sides, whitening, 200, least)
        kept = [1 - 0.5 ** float(side.shape[1]) for s in found.values() for side in (s.rows, s.columns)]
        return sum(s.size for s in found.values()), (kept[0] * kept[1] + kept[2] * kept[3]) / 2

    whole, some, more = numbers_and_energy(None), numbers_and_energy(20), numbers_and_energy(150)
    assert whole[0] == 200
    assert 20 <= some[0] < 100 and some[1] >= ENOUGH - 1e-3
    assert 150 <= more[0] < 200


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (2, 2)])
def test_numbers_are_shared_out_where_the_energy_is(rows: int, columns: int) -> None:
    """Whitened gradients of exactly so many directions on each side are kept whole by so few numbers."""
    identity = torch.eye(5, dtype=torch.float64)[None]
    factors = {"": LayerFactors(identity, identity, torch.ones(1, 5, 5, dtype=torch.float64))}
    whitening = make_whitening(factors, 0.0, relative=False, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, rows), (60, rows, columns), (columns, 5))
    left, middle, right = (torch.randn(shape, generator=generator) for shape in shapes)
    whitened = left @ middle @ right
    unit = whitened.double() / whitened.double().flatten(1).norm(dim=1)[:, None, None]
    sides = {"": Sides(Side.of((unit @ unit.mT).sum(0)), Side.of((unit.mT @ unit).sum(0)))}
    subspace = fit_subspaces(sides, whitening, rows * columns)[""]
    assert (subspace.rows.shape[1], subspace.columns.shape[1]) == (rows, columns)
    value = DenseWhitened(whitened[:, None], whitening[""].root)
    kept = subspace.compress_all(value, whitening[""].root)[0].square().sum(1)
    # A basis may lose half a hundredth of its leverage on each side with eigenvectors that it hardly uses.
    torch.testing.assert_close(kept, whitened.flatten(1).square().sum(1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", ["cnn", "grouped"])
def test_online_embeddings_are_the_rows_and_survive_storage(name: str) -> None:
    fitted = fit(make(name, 60), "ekfac", 50, 25)
    _, gradients = captured(fitted.case)
    stored = SubspaceEmbedding.from_tensors("ekfac", fitted.embedding.tensors(), fitted.layers)
    check_same(stored.embed(gradients).double() * fitted.scale[:, None], fitted.rows.phi.double())


@pytest.mark.parametrize("name", ["logistic", "cnn", "grouped", "twice_used"])
@pytest.mark.parametrize("batch", [1, 5])
def test_embeddings_do_not_depend_on_the_batch(name: str, batch: int) -> None:
    case = make(name, 24)
    fitted = fit(case, "ekfac", 60, 12)
    whole = fitted.embedding.embed(captured(case)[1])
    parts = [fitted.embedding.embed(captured(case, slice(start, start + batch))[1]) for start in range(0, 24, batch)]
    check_same(torch.cat(parts), whole)


def test_exact_embeddings_do_not_depend_on_the_batch() -> None:
    case = make("logistic", 30)
    factors = whole_factors(case)
    whole = factors.rows(captured(case)[1], 21)
    for start in range(0, 30, 4):
        part = factors.rows(captured(case, slice(start, start + 4))[1], 21)
        check_same(part.phi, whole.phi[start : start + 4])
        torch.testing.assert_close(part.ihvp_norms, whole.ihvp_norms[start : start + 4], rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["exact", "ekfac"])
@pytest.mark.parametrize("name", ["logistic", "grouped"])
def test_the_online_path_runs_on_any_device(name: str, kind: str) -> None:
    """On the meta device there are no values: nothing may branch on them, copy to the CPU or make CPU tensors."""
    case = make(name, 24)
    device = torch.device("meta")
    if kind == "exact":
        layers = find_layers(case.model)
        size = 10
        embedding = ExactEmbedding(layers, torch.zeros(num_parameters(layers), size)).to(device)
    else:
        embedding = fit(case, "ekfac", 60, 10).embedding.to(device)
        size = embedding.size
    model = copy.deepcopy(case.model).to(device)
    labels = case.labels.to(device)
    with CaptureSession(model, embedding.layers) as session:
        outputs = session.forward(case.inputs.to(device))
        for scaled in (
            scaled_output_gradient(CROSS_ENTROPY, outputs, labels),
            contrast_output_gradient(CROSS_ENTROPY, outputs, labels, labels + 1),
        ):
            phi = embedding.embed(session.backward(scaled.unit))
            assert (phi.device, tuple(phi.shape), phi.dtype) == (device, (24, size), torch.float32)
