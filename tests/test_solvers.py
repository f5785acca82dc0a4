"""Solvers: every one of them agrees with the dense inverse, in the dense Hessian's parameter order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cases
from curvatures import dense_ggn
from proponent.attribution.curvature.exact import exact_hessian
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.losses import get_loss
from proponent.attribution.solvers import arnoldi, cg, ggn_matvec, hessian_matvec, lissa
from proponent.errors import CurvatureError

CROSS_ENTROPY = get_loss("cross_entropy")
WEIGHT_DECAY = 0.05
TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


def vectors(size: int, count: int = 3) -> Tensor:
    return torch.randn(size, count, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def logistic_problem() -> tuple[Tensor, Any]:
    case = cases.logistic()
    layers = find_layers(case.model)
    dense = exact_hessian(case.model, CROSS_ENTROPY, case.batches(5), layers, weight_decay=WEIGHT_DECAY)
    matvec = hessian_matvec(case.model, CROSS_ENTROPY, case.batches(5), layers, weight_decay=WEIGHT_DECAY)
    return dense, matvec


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "twice_used", "grouped"])
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_equal_the_dense_matrix(name: str, kind: str) -> None:
    case = cases.MODELS[name]()
    layers = find_layers(case.model)
    build, make = (exact_hessian, hessian_matvec) if kind == "hessian" else (dense_ggn, ggn_matvec)
    dense = build(case.model, CROSS_ENTROPY, case.batches(5), layers, weight_decay=WEIGHT_DECAY)
    matvec = make(case.model, CROSS_ENTROPY, case.batches(4), layers, weight_decay=WEIGHT_DECAY)
    b = vectors(len(dense))
    torch.testing.assert_close(matvec(b), dense @ b, **TIGHT)
    torch.testing.assert_close(matvec(b[:, 0]), dense @ b[:, 0], **TIGHT)


@pytest.mark.parametrize("make", [hessian_matvec, ggn_matvec])
def test_products_with_a_flat_single_output(make: Any) -> None:
    case = cases.binary_logistic()
    layers, loss = find_layers(case.model), get_loss("bce")
    dense = exact_hessian(case.model, loss, case.batches(5), layers)
    b = vectors(len(dense))
    torch.testing.assert_close(make(case.model, loss, case.batches(4), layers)(b), dense @ b, **TIGHT)


def test_cg_solves_all_right_hand_sides() -> None:
    dense, matvec = logistic_problem()
    b = vectors(len(dense))
    b[:, 1] = 0
    b[:, 2] *= 1e-6
    x, report = cg(matvec, b, damping=0.01, tol=1e-11)
    damped = dense + 0.01 * torch.eye(len(dense)).double()
    torch.testing.assert_close(x, torch.linalg.solve(damped, b), rtol=1e-7, atol=1e-14)
    assert report.converged and report.residual_norms.shape == (3,)
    torch.testing.assert_close((b - damped @ x).norm(dim=0), report.residual_norms, rtol=0.1, atol=1e-14)
    single, _ = cg(matvec, b[:, 0], damping=0.01, tol=1e-11)
    torch.testing.assert_close(single, x[:, 0], rtol=1e-9, atol=1e-12)


def test_a_preconditioner_saves_iterations_and_changes_no_result() -> None:
    dense, matvec = logistic_problem()
    scales = torch.logspace(0, 4, len(dense)).double()

    def skewed(v: Tensor) -> Tensor:
        return scales.unsqueeze(1) * matvec(scales.unsqueeze(1) * v)

    b = vectors(len(dense), 1)
    plain, slow = cg(skewed, b, max_iterations=60)
    fast_x, fast = cg(skewed, b, max_iterations=60, preconditioner=lambda v: v / scales.unsqueeze(1) ** 2)
    assert fast.converged and not slow.converged and plain.shape == b.shape
    expected = torch.linalg.solve(dense * scales * scales.unsqueeze(1), b)
    torch.testing.assert_close(fast_x, expected, rtol=1e-5, atol=1e-9 * float(expected.abs().max()))


def test_cg_reports_when_it_does_not_converge_and_refuses_negative_curvature() -> None:
    dense, matvec = logistic_problem()
    _, report = cg(matvec, vectors(len(dense)), tol=1e-12, max_iterations=2)
    assert not report.converged and report.iterations == 2
    with pytest.raises(CurvatureError, match="larger damping"):
        cg(lambda v: -matvec(v), vectors(len(dense)))


def test_cg_may_stop_at_negative_curvature_with_what_it_found() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, -1.0]).double())
    for b in (torch.ones(3).double(), vectors(3)):
        x, report = cg(lambda v: matrix @ v, b, stop_at_negative=True)
        assert bool(torch.isfinite(x).all()) and not report.converged and x.shape == b.shape
    b = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).double()
    x, report = cg(lambda v: matrix @ v, b, stop_at_negative=True)
    assert (
        x[:, 0].tolist() == [1, 0, 0] and x[:, 1].tolist() == [0, 0, 0] and report.residual_norms.tolist() == [0, 1]
    )
    zero, _ = cg(lambda v: -v, torch.zeros(3).double())
    assert zero.tolist() == [0, 0, 0]


def test_lissa_agrees_with_the_dense_inverse() -> None:
    """Without the division by scale it would be ten times too large; without 1/N, twelve times too small."""
    dense, matvec = logistic_problem()
    b = vectors(len(dense))
    found = lissa([matvec], b, damping=0.1, scale=4.0, depth=600)
    expected = torch.linalg.solve(dense + 0.1 * torch.eye(len(dense)).double(), b)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_lissa_over_batches_estimates_the_inverse_of_the_mean_not_the_mean_of_inverses() -> None:
    torch.manual_seed(0)
    matrices = [torch.diag(torch.tensor([0.2, 1.0]).double()), torch.diag(torch.tensor([1.8, 1.0]).double())]
    parts = [lambda v, m=m: m @ v for m in matrices]
    b = torch.ones(2).double()
    found = lissa(parts, b, scale=20.0, depth=400, repeats=60)
    torch.testing.assert_close(found, torch.ones(2).double(), rtol=0.03, atol=0)
    assert torch.equal(found, lissa(parts, b, scale=20.0, depth=400, repeats=60))


def test_lissa_that_diverges_says_so() -> None:
    for depth in (1, 30, 400):
        with pytest.raises(CurvatureError, match="larger scale"):
            lissa([lambda v: 100 * v], torch.ones(3), scale=1.0, depth=depth)


def test_arnoldi_with_full_rank_is_the_dense_inverse() -> None:
    """Softmax curvature repeats its smallest eigenvalue, so the Krylov space must be restarted."""
    dense, matvec = logistic_problem()
    b = vectors(len(dense))
    projector = arnoldi(matvec, len(dense), rank=len(dense), iterations=len(dense), damping=0.02)
    damped = dense + 0.02 * torch.eye(len(dense)).double()
    torch.testing.assert_close(projector.ihvp(b), torch.linalg.solve(damped, b), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(projector.ihvp(b[:, 0]), projector.ihvp(b)[:, 0])
    identity = torch.eye(len(dense)).double()
    torch.testing.assert_close(projector.basis.T @ projector.basis, identity, rtol=0, atol=1e-11)


def test_arnoldi_of_low_rank_finds_the_leading_eigenpairs() -> None:
    dense, matvec = logistic_problem()
    projector = arnoldi(matvec, len(dense), rank=3, iterations=16, damping=0.02)
    values, basis = torch.linalg.eigh(dense)
    torch.testing.assert_close(projector.eigenvalues, values.flip(0)[:3], rtol=1e-6, atol=0)
    top = basis[:, -3:]
    expected = top @ torch.diag(1 / (values[-3:] + 0.02)) @ top.T @ vectors(len(dense))
    torch.testing.assert_close(projector.ihvp(vectors(len(dense))), expected, rtol=1e-4, atol=1e-4)


def test_arnoldi_refuses_an_inverse_that_is_not_positive() -> None:
    with pytest.raises(CurvatureError, match="not positive"):
        arnoldi(lambda v: -v, 4, rank=4, iterations=4)


def test_batches_that_cannot_be_read_again_are_refused() -> None:
    case = cases.logistic()
    matvec = hessian_matvec(case.model, CROSS_ENTROPY, iter(case.batches(5)), find_layers(case.model))
    matvec(vectors(21))
    with pytest.raises(CurvatureError, match="read again"):
        matvec(vectors(21))
