r"""A distilled embedding: one model's gradients, mapped to what several trainings of its recipe say on average.

One model's influence is a noisy estimate of what its recipe does: another training with another seed gives other
scores. For inputs j that no training example is (pseudo-queries), M other models give the **teacher**

    T[j, i] = sum_m K_m[j, i] / spread_i K_m[j, :],      K_m[j, i] = phi_m(j) . phi_m(i),

each model's row divided by its own spread over the training examples, so that none of them rules the sum. The
**student** is a ridge regression from the unit features f(j) = phi(j) / ||phi(j)|| of the model that is served,

    C = (F^T F + lambda I)^{-1} F^T T,      lambda = ridge * tr(F^T F) / Kf,

of which the leading singular directions *of the fitted values* are kept: F C = (F W) R^T with (F W)^T F W = I. A
query is W^T phi(x), linear in its gradient, and R holds the training rows: one forward, one backward and one scan.

Teachers may say more than K directions hold: of six teachers of a CIFAR-10 network 256 keep 0.7, and a score made of
these is worth two thirds. But what they say of the training examples of one class fits into fewer. So R has as many
columns as it takes, and the rows of each group g of training examples, its class, are coded in K directions of their
own, the leading ones of R_g = Z_g V_g^T. A row is K numbers z_i, and its score (V_g^T W^T phi(x)) . z_i.

T is never formed: F^T T = sum_m (F^T D_m Q_m) R_m^T, with Q_m the pseudo-queries and R_m the training rows of model
m, and D_m one over the spreads, which the rows' covariance gives.

Kin: ensembles of models in TRAK (Park et al. 2023), and embeddings that are trained to predict influence (AirRep,
Sun et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one
from proponent.errors import CurvatureError


@dataclass(frozen=True)
class Teacher:
    """One model's embedding of the pseudo-queries and of the training set.

    Attributes:
        queries: Q_m, [n, K_m] float32, of output gradients of unit scale.
        rows: R_m, [N, K_m] float32, of the training examples' whole gradients.
        scales: Factors of the pseudo-queries' output gradients, [n] float64.
    """

    queries: Tensor
    rows: Tensor
    scales: Tensor


LOST = 1e-3
"""Share of the fitted values' squares that queries may lack."""


@dataclass(frozen=True)
class Student:
    """The factors of what was fitted.

    Attributes:
        queries: W, [Kf, K'] float64: a query is ``W^T phi``.
        rows: Z, [N, K] float64: R itself, with K' = K, where there are no bases.
        kept: Share of the fitted values' squares that rows of K numbers keep, 0..1.
        bases: V, [G, K', K] float64 with orthonormal columns, or None.
    """

    queries: Tensor
    rows: Tensor
    kept: float = 1.0
    bases: Tensor | None = None

    def vectors(self, groups: Tensor) -> Tensor:
        """R as far as the rows keep it, [N, K'], of the training examples' groups [N]."""
        if self.bases is None:
            return self.rows
        found = self.rows.new_empty(len(self.rows), self.bases.shape[1])
        for group, basis in enumerate(self.bases):
            found[groups == group] = self.rows[groups == group] @ basis.mT
        return found


class TeacherMoment:
    """``F^T T`` and ``F^T F`` of unit features F [n, Kf], summed over teachers.

    Args:
        features: Of the pseudo-queries, [n, Kf]; rows of length 1 (or 0: no direction).
        origins: The training example that a pseudo-query was made from, [n] int64, -1 for none. T is zero there: an
            example's influence on itself would rule the fit.
    """

    def __init__(self, features: Tensor, origins: Tensor) -> None:
        self._features = features.double()
        self._origins = origins
        self.gram = self._features.mT @ self._features
        self.crossed: Tensor | None = None

    def add(self, teacher: Teacher) -> None:
        """Adds a model; crossed is [Kf, N] float64."""
        rows = teacher.rows.double()
        weighted = teacher.queries.double() / positive_or_one(_spreads(teacher.queries, rows))[:, None]
        found = (self._features.mT @ weighted) @ rows.mT
        made = (self._origins >= 0).nonzero().flatten()
        own = (weighted[made] * rows[self._origins[made]]).sum(dim=1)
        found.index_add_(1, self._origins[made], (self._features[made] * own[:, None]).mT, alpha=-1.0)
        self.crossed = found if self.crossed is None else self.crossed + found


def _spreads(queries: Tensor, rows: Tensor) -> Tensor:
    """Standard deviation over the training rows of each query's products, [n] float64."""
    centred = rows - rows.mean(dim=0)
    covariance = centred.mT @ centred / len(rows)
    wide = queries.double()
    return ((wide @ covariance) * wide).sum(dim=1).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Fit:
    """A ridge regression: F C = (F B) A with orthonormal F B.

    Attributes:
        basis: B, [Kf, k] float64.
        values: A, [k, N].
        energies: Its squares along each of their singular directions, largest first, [k].
        directions: These, [k, k].
    """

    basis: Tensor
    values: Tensor
    energies: Tensor
    directions: Tensor

    def student(self, size: int, groups: Tensor) -> Student:
        """The student whose rows have ``size`` numbers: K, or fewer where there are no more directions.

        Teachers that say nothing (the loss is flat at every training example) are kept whole by any numbers.

        Args:
            size: K.
            groups: Of the training examples, [N] int64 from 0.
        """
        total = self.energies.sum()
        shares = torch.where(total > 0, self.energies.cumsum(0) / positive_or_one(total), 1.0)
        width = int((shares < 1 - LOST).sum()) + 1
        if width <= size or not bool(groups.any()):
            directions = self.directions[:, :size]
            return Student(self.basis @ directions, self.values.mT @ directions, float(shares[:size][-1]))
        directions = self.directions[:, :width]
        rows, bases = _coded(self.values.mT @ directions, groups, min(size, int(groups.bincount().max())))
        kept = float(rows.square().sum() / total)
        return Student(self.basis @ directions, rows, kept, bases)


def fit(moment: TeacherMoment, ridge: float) -> Fit:
    """The ridge regression.

    Args:
        moment: Of at least one teacher.
        ridge: In units of the mean eigenvalue of F^T F.

    Raises:
        CurvatureError: No pseudo-query has a direction.
    """
    assert moment.crossed is not None
    values, vectors = torch.linalg.eigh(moment.gram)
    if not values.amax() > 0:
        raise CurvatureError(
            "the loss is flat at every pseudo-query, so that nothing can be distilled: give unlabelled inputs that "
            "the model is less sure of, or leave teachers out",
            field="curvature.teachers",
            reason="ZERO_GRADIENTS",
        )
    mean = values.mean()
    some = values > 1e-12 * values.amax()
    values, vectors = values[some], vectors[:, some]
    root = values.sqrt()
    fitted = (vectors.mT @ moment.crossed) * (root / (values + ridge * mean))[:, None]
    energies, directions = (each.flip(-1) for each in torch.linalg.eigh(fitted @ fitted.mT))
    return Fit(vectors / root, fitted, energies.clamp(min=0), directions)


def _coded(vectors: Tensor, groups: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Z, [N, size], and V, [G, K', size], which give the best of R, [N, K'], group by group."""
    rows, bases = vectors.new_empty(len(vectors), size), []
    for group in range(int(groups.max()) + 1):
        own = vectors[groups == group]
        bases.append(_leading_directions(own, size))
        rows[groups == group] = own @ bases[-1]
    return rows, torch.stack(bases)


def _leading_directions(vectors: Tensor, size: int) -> Tensor:
    """Right singular vectors of [n, K'], [K', size]; zero beyond the n-th."""
    if len(vectors) < vectors.shape[1]:
        found = torch.linalg.svd(vectors, full_matrices=False)[2].mT[:, :size]
        return torch.nn.functional.pad(found, (0, size - found.shape[1]))
    whole: Tensor = torch.linalg.eigh(vectors.mT @ vectors)[1].flip(1)[:, :size]
    return whole


def slope(student: Student, groups: Tensor, phi: Tensor, scales: Tensor, teachers: Iterable[Teacher]) -> float:
    """What a student's scores are to be multiplied by: the median over pseudo-queries of the slope of I on them.

    I is the mean over the teachers of the influence of each training example, and the slope that of the regression
    through the origin, query by query: afterwards a score of 1 stands for an expected influence of 1.

    Args:
        student: As fitted.
        groups: Of the training examples, [N].
        phi: Features before they were divided by their length, [n, Kf].
        scales: Factors of the output gradients of the model that is served, [n] float64.
        teachers: All of them.

    Returns:
        The slope; 1 where no pseudo-query has any influence.
    """
    rows = student.vectors(groups)
    asked = (phi.double() @ student.queries) * scales[:, None]
    squares = ((asked @ (rows.mT @ rows)) * asked).sum(dim=1)
    products, count = torch.zeros_like(squares), 0
    for teacher in teachers:
        shared = teacher.rows.double().mT @ rows
        products += ((teacher.queries.double() @ shared) * asked).sum(dim=1) * teacher.scales
        count += 1
    some = squares > 0
    return float((products[some] / squares[some]).median() / count) if bool(some.any()) else 1.0
