"""Matrix-free inverse-Hessian-vector products: reference solvers for the audit.

Vectors are flat, ``[P]`` or ``[P, R]`` for R right-hand sides, in the parameter order of
`proponent.attribution.gradients.layers`; their dtype is the precision of the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, vjp, vmap

from proponent.attribution.functional import (
    LabelledBatch,
    Outputs,
    current_parameters,
    outputs_function,
    summed_loss,
)
from proponent.attribution.gradients.layers import Layers
from proponent.attribution.losses import Loss
from proponent.errors import CurvatureError

Matvec = Callable[[Tensor], Tensor]
"""A symmetric linear map from ``[P]`` or ``[P, R]`` to the same shape."""


def hessian_matvec(
    model: nn.Module, loss: Loss, batches: Iterable[LabelledBatch], layers: Layers, *, weight_decay: float = 0.0
) -> Matvec:
    """Products with ``(1/N) sum_i d2 loss_i + wd I`` (Pearlmutter 1994), one pass over the batches each.

    Args:
        model: In eval mode.
        loss: The training loss.
        batches: Inputs, labels and ids; read at each product, so no generator.
        layers: The layers to cover.
        weight_decay: wd.
    """

    def product(outputs: Outputs, batch: LabelledBatch, theta: Tensor, vectors: Tensor) -> Tensor:
        pullback = vjp(grad(summed_loss(outputs, loss, batch)), theta)[1]
        return _columnwise(lambda vector: pullback(vector)[0], vectors)

    return _mean_product(model, batches, layers, weight_decay, product)


def ggn_matvec(
    model: nn.Module, loss: Loss, batches: Iterable[LabelledBatch], layers: Layers, *, weight_decay: float = 0.0
) -> Matvec:
    """Products with ``(1/N) sum_i J_i^T H_out,i J_i + wd I`` (Schraudolph 2002); see `hessian_matvec`."""

    def product(outputs: Outputs, batch: LabelledBatch, theta: Tensor, vectors: Tensor) -> Tensor:
        values, pullback = vjp(lambda flat: outputs(flat, batch[0]), theta)[:2]
        middle = loss.output_hessian(values.detach(), batch[1])
        # J v as the derivative of u -> J^T u, which is linear: needs reverse mode only.
        forward = vjp(lambda cotangent: pullback(cotangent)[0], torch.zeros_like(values))[1]

        def single(vector: Tensor) -> Tensor:
            change = forward(vector)[0]
            curved = torch.einsum("bcd,bd->bc", middle, change.reshape(middle.shape[:2]))
            result: Tensor = pullback(curved.reshape(change.shape))[0]
            return result

        return _columnwise(single, vectors)

    return _mean_product(model, batches, layers, weight_decay, product)


@dataclass(frozen=True)
class ConvergenceReport:
    """How an iterative solve ended.

    Attributes:
        iterations: Products with the matrix.
        residual_norms: ``||b - (A + damping I) x||`` of each right-hand side, ``[R]``.
        converged: Whether all of them are at most tol times ``||b||``.
    """

    iterations: int
    residual_norms: Tensor
    converged: bool


def cg(
    matvec: Matvec,
    b: Tensor,
    *,
    damping: float = 0.0,
    tol: float = 1e-8,
    max_iterations: int = 1000,
    preconditioner: Matvec | None = None,
    stop_at_negative: bool = False,
) -> tuple[Tensor, ConvergenceReport]:
    """Solve ``(A + damping I) x = b`` by preconditioned conjugate gradients (Hestenes & Stiefel 1952).

    Right-hand sides are solved side by side, each with its own step lengths and end.

    Args:
        matvec: A, symmetric.
        b: ``[P]`` or ``[P, R]``.
        damping: Added to the diagonal.
        tol: Relative residual at which a right-hand side is done.
        max_iterations: Give up after so many; the report tells.
        preconditioner: Approximates the inverse, symmetric positive.
        stop_at_negative: Whether a right-hand side ends, instead of raising, at a direction of curvature <= 0.

    Returns:
        x, shaped like b, and the report.

    Raises:
        CurvatureError: If a direction of zero or negative curvature turns up, without ``stop_at_negative``.
    """
    target = b.reshape(len(b), -1)
    x, residual = torch.zeros_like(target), target.clone()
    limit = tol * target.norm(dim=0)
    precondition = preconditioner or (lambda vectors: vectors)
    z = precondition(residual)
    direction, energy = z.clone(), (residual * z).sum(0)
    iterations, active = 0, target.norm(dim=0) > limit
    while iterations < max_iterations and bool(active.any()):
        image = matvec(direction.reshape(b.shape)).reshape(target.shape) + damping * direction
        curvature = (direction * image).sum(0)
        if not stop_at_negative:
            _check_curvature(curvature[active])
        active &= curvature > 0
        step = torch.where(active, energy / curvature, 0.0)
        x, residual = x + step * direction, residual - step * image
        z = precondition(residual)
        previous, energy = energy, (residual * z).sum(0)
        direction = z + torch.where(active, energy / previous, 0.0) * direction
        active &= residual.norm(dim=0) > limit
        iterations += 1
    norms = residual.norm(dim=0)
    return x.reshape(b.shape), ConvergenceReport(iterations, norms, bool((norms <= limit).all()))


def lissa(
    matvecs: Sequence[Matvec],
    b: Tensor,
    *,
    damping: float = 0.0,
    scale: float = 10.0,
    depth: int = 1000,
    repeats: int = 1,
    seed: int = 0,
) -> Tensor:
    """``(A + damping I)^-1 b`` by LiSSA (Agarwal et al. 2017): a Neumann series over sampled batches.

    ``h <- b + h - (A_j + damping I) h / scale`` with a random batch j at each step has the fixed point
    ``scale (A + damping I)^-1 b``; h is divided by scale at the end.

    Args:
        matvecs: A_j, whose plain mean is A (batches of equal size).
        b: ``[P]`` or ``[P, R]``.
        damping: Added to the diagonal.
        scale: Must exceed the largest eigenvalue of every ``A_j + damping I``.
        depth: Steps of one series.
        repeats: Series to average.
        seed: Seed of the sampled batches.

    Raises:
        CurvatureError: If a series diverges: its end solves the system worse than zero does.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(b)
    for _ in range(repeats):
        h = b.clone()
        for index in torch.randint(len(matvecs), (depth,), generator=generator).tolist():
            h = b + h - (matvecs[index](h) + damping * h) / scale
        total += h / scale
        residual = b - (sum(matvec(h) for matvec in matvecs) / len(matvecs) + damping * h) / scale
        if not float(residual.norm()) <= float(b.norm()):  # which is that of zero
            raise CurvatureError(f"LiSSA diverged with scale {scale:.6g}: set a larger scale.", field="scale")
    return total / repeats


@dataclass(frozen=True)
class KrylovProjector:
    """Approximate eigenpairs of A, and the damped inverse on their span.

    Attributes:
        basis: ``[P, rank]``, orthonormal columns.
        eigenvalues: ``[rank]``, descending.
        damping: Added to each.
    """

    basis: Tensor
    eigenvalues: Tensor
    damping: float

    def ihvp(self, b: Tensor) -> Tensor:
        """``V (diag(eigenvalues) + damping)^-1 V^T b`` for ``[P]`` or ``[P, R]``; zero outside the span."""
        coordinates = self.basis.T @ b.reshape(len(b), -1)
        scaled = coordinates / (self.eigenvalues + self.damping).unsqueeze(1)
        return (self.basis @ scaled).reshape(b.shape)


def arnoldi(
    matvec: Matvec,
    dim: int,
    *,
    rank: int,
    iterations: int,
    damping: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> KrylovProjector:
    """Leading eigenpairs by Arnoldi iteration (Schioppa et al. 2022, "Scaling up influence functions").

    A is symmetric, so this is Lanczos with full reorthogonalisation. A Krylov space that ends early, as it
    does with repeated eigenvalues, is continued from a new random vector. Unlike the paper, which keeps the
    largest absolute values, the largest eigenvalues are kept: the inverse must be positive.

    Args:
        matvec: A.
        dim: P.
        rank: Eigenpairs to keep.
        iterations: Size of the Krylov space, at least rank, at most P.
        damping: Damping of the inverse.
        seed: Seed of the start vectors.
        dtype: Precision.
        device: Device of the vectors.

    Raises:
        CurvatureError: If a kept eigenvalue plus damping is not positive.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.zeros(dim, min(iterations, dim), dtype=dtype, device=device)
    images = torch.zeros_like(basis)
    candidate = torch.zeros(dim, dtype=dtype, device=device)
    for k in range(basis.shape[1]):
        basis[:, k] = _next_direction(basis[:, :k], candidate, generator)
        images[:, k] = candidate = matvec(basis[:, k])
    small = basis.T @ images
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    if not bool((values + damping > 0).all()):
        message = f"Smallest kept eigenvalue {float(values.min()):.6g} plus damping {damping:.6g} is not positive."
        raise CurvatureError(message, field="damping")
    return KrylovProjector(basis @ vectors, values, damping)


def _mean_product(
    model: nn.Module,
    batches: Iterable[LabelledBatch],
    layers: Layers,
    weight_decay: float,
    product: Callable[[Outputs, LabelledBatch, Tensor, Tensor], Tensor],
) -> Matvec:
    """Sum of the batches' products over N, plus weight decay."""

    def matvec(vectors: Tensor) -> Tensor:
        outputs = outputs_function(model, layers, vectors.dtype)
        theta = current_parameters(model, layers, vectors.dtype)
        total, count = torch.zeros_like(vectors), 0
        for batch in batches:
            total += product(outputs, batch, theta, vectors)
            count += len(batch[1])
        if count == 0:
            raise CurvatureError("No examples: the batches must be an iterable that can be read again.")
        return total / count + weight_decay * vectors

    return matvec


def _columnwise(single: Matvec, vectors: Tensor) -> Tensor:
    return single(vectors) if vectors.ndim == 1 else vmap(single, in_dims=1, out_dims=1)(vectors)


def _check_curvature(curvature: Tensor) -> None:
    if bool((curvature <= 0).any()):
        message = (
            f"Conjugate gradients met a direction of curvature {float(curvature.min()):.6g}: set a larger damping."
        )
        raise CurvatureError(message, field="damping")


def _next_direction(basis: Tensor, candidate: Tensor, generator: torch.Generator) -> Tensor:
    """The candidate's unit component orthogonal to the basis; a random one's if hardly any is left."""
    remainder = _orthogonalise(candidate, basis)
    while not bool(remainder.norm() > 1e-10 * candidate.norm()):
        noise = torch.randn(len(candidate), generator=generator, dtype=torch.float64)
        candidate = noise.to(basis)
        remainder = _orthogonalise(candidate, basis)
    return remainder.div(remainder.norm())


def _orthogonalise(vector: Tensor, basis: Tensor) -> Tensor:
    """Twice is enough (Kahan; Giraud et al. 2005)."""
    for _ in range(2):
        vector = vector - basis @ (basis.T @ vector)
    return vector
