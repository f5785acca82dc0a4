"""The inverse of a training objective's curvature by three solvers, as maps that can be applied again and again."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor

from proponent.attribution.solvers import KrylovProjector, Matvec, arnoldi, cg, lissa
from proponent.errors import CurvatureError
from proponent.inspection.objective import Objective


class Solver(enum.Enum):
    """How (A + damping I) x = g is solved; see ``attribution.solvers``."""

    CG = "cg"
    LISSA = "lissa"
    ARNOLDI = "arnoldi"


TOLERANCE = 1e-4
STEPS = {Solver.CG: 200, Solver.LISSA: 1000, Solver.ARNOLDI: 400}
_SCALE_TRIES = 8
_SCALE_STEPS = 8
"""Products with A that LiSSA's scale, the largest eigenvalue, is estimated by."""


@dataclass(frozen=True)
class Inverse:
    """``(A + damping I)^-1`` of vectors [P] or [P, R], as far as a solver gets.

    Attributes:
        objective: Whose curvature A is.
        damping: Added to it.
        solve: The solver's map.
    """

    objective: Objective
    damping: float
    solve: Matvec

    def residual(self, right: Tensor, solution: Tensor) -> float:
        """``||g - (A + damping I) x|| / ||g||``, the largest where there are several."""
        left = right - self.objective.product()(solution) - self.damping * solution
        norms, of = (each.reshape(len(right), -1).norm(dim=0) for each in (left, right))
        return float((norms[of > 0] / of[of > 0]).amax()) if bool(of.any()) else 0.0


def inverse_of(objective: Objective, solver: Solver, damping: float, steps: int | None = None) -> Inverse:
    """The inverse by a solver; what all solves share, as Arnoldi's basis, is computed here.

    Args:
        objective: Whose curvature is inverted.
        solver: Which solver.
        damping: Added to the curvature.
        steps: Most products of conjugate gradients, steps of LiSSA's series, or vectors of Arnoldi's basis (half of
            which are kept as eigenvectors); None takes ``STEPS``.

    Raises:
        CurvatureError: Arnoldi met an eigenvalue that the damping does not make positive.
    """
    most = STEPS[solver] if steps is None else steps
    by = {Solver.CG: _conjugate_gradients, Solver.LISSA: _series, Solver.ARNOLDI: _projection}[solver]
    return Inverse(objective, damping, by(objective, damping, most))


def _conjugate_gradients(objective: Objective, damping: float, steps: int) -> Matvec:
    product = objective.product()
    return lambda right: cg(product, right, damping=damping, tol=TOLERANCE, max_iterations=steps)[0]


def _projection(objective: Objective, damping: float, steps: int) -> Matvec:
    return _largest(objective, min(-(-steps // 2), objective.parameters), steps, damping).ihvp


def _series(objective: Objective, damping: float, depth: int) -> Matvec:
    """LiSSA with the smallest scale tried that does not diverge: twice the largest eigenvalue and its doubles."""
    first = 2 * (float(_largest(objective, 1, _SCALE_STEPS).eigenvalues[0]) + damping)
    products = objective.sampled_products()

    def solve(right: Tensor) -> Tensor:
        for doublings in range(_SCALE_TRIES - 1):
            try:
                return lissa(products, right, damping=damping, scale=first * 2**doublings, depth=depth)
            except CurvatureError:
                continue
        return lissa(products, right, damping=damping, scale=first * 2 ** (_SCALE_TRIES - 1), depth=depth)

    return solve


def _largest(objective: Objective, count: int, steps: int, damping: float = 0.0) -> KrylovProjector:
    """The largest eigenvalues, from so many products at most."""
    return arnoldi(
        objective.product(),
        objective.parameters,
        rank=count,
        iterations=min(steps, objective.parameters),
        damping=damping,
        dtype=objective.dtype,
        device=objective.device,
    )
