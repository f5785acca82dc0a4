"""The fit of a distilled embedding by its definition: T formed, normal equations, a singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proponent.attribution.embedding.distilled import LOST, Student, Teacher, TeacherMoment, fit, slope
from proponent.errors import CurvatureError

SIZES = st.tuples(
    st.integers(3, 30), st.integers(2, 12), st.integers(2, 12), st.integers(3, 20), st.integers(0, 2**31)
)
"""Pseudo-queries, features, a teacher's numbers, training examples, seed."""


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(
    n: int, features: int, size: int, train: int, seed: int, count: int = 2
) -> tuple[Tensor, Tensor, list[Teacher]]:
    phi = drawn(n, features, seed=seed)
    origins = torch.randint(-1, train, (n,), generator=torch.Generator().manual_seed(seed))
    teachers = [
        Teacher(
            drawn(n, size, seed=seed + 2 * m + 1).float(),
            drawn(train, size, seed=seed + 2 * m + 2).float(),
            drawn(n, seed=seed + m).abs(),
        )
        for m in range(count)
    ]
    return phi, origins, teachers


def unit(phi: Tensor) -> Tensor:
    return phi / phi.norm(dim=1, keepdim=True)


def target(origins: Tensor, teachers: list[Teacher]) -> Tensor:
    """T as it is defined, [n, N]."""
    total = torch.zeros(len(origins), len(teachers[0].rows), dtype=torch.float64)
    for teacher in teachers:
        kernel = teacher.queries.double() @ teacher.rows.double().mT
        total += kernel / kernel.std(dim=1, correction=0, keepdim=True)
    made = origins >= 0
    total[made, origins[made]] = 0.0
    return total


def moment_of(phi: Tensor, origins: Tensor, teachers: list[Teacher]) -> TeacherMoment:
    moment = TeacherMoment(unit(phi), origins)
    for teacher in teachers:
        moment.add(teacher)
    return moment


def whole(problem_: tuple[Tensor, Tensor, list[Teacher]], ridge: float) -> Tensor:
    """The fitted values by normal equations, [n, N]."""
    phi, origins, teachers = problem_
    features, wanted = unit(phi), target(origins, teachers)
    gram = features.mT @ features
    damped = gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    return features @ torch.linalg.solve(damped, features.mT @ wanted)


def one_group(teachers: list[Teacher]) -> Tensor:
    return torch.zeros(len(teachers[0].rows), dtype=torch.int64)


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_the_moment_is_that_of_the_teacher_as_defined(sizes: tuple[int, int, int, int, int]) -> None:
    phi, origins, teachers = problem(*sizes)
    moment = moment_of(phi, origins, teachers)
    assert moment.crossed is not None
    torch.testing.assert_close(moment.crossed, unit(phi).mT @ target(origins, teachers), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moment.gram, unit(phi).mT @ unit(phi))


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 12), st.sampled_from([1e-3, 0.1, 10.0]))
def test_the_student_is_the_ridge_regression_of_the_rank_asked_for(
    sizes: tuple[int, int, int, int, int], size: int, ridge: float
) -> None:
    """By normal equations and a singular value decomposition; also with fewer queries than features."""
    phi, origins, teachers = problem(*sizes)
    left, values, right = torch.linalg.svd(whole((phi, origins, teachers), ridge), full_matrices=False)
    best = (left[:, :size] * values[:size]) @ right[:size]

    student = fit(moment_of(phi, origins, teachers), ridge).student(size, one_group(teachers))
    asked = unit(phi) @ student.queries
    assert student.bases is None
    energy = values.square()
    assert student.kept == pytest.approx(float(energy[:size].sum() / energy.sum()))
    assert student.queries.shape[1] == student.rows.shape[1] <= size
    torch.testing.assert_close(asked @ student.rows.mT, best, rtol=1e-6, atol=1e-6 * float(values[0] + 1))
    kept = student.rows.norm(dim=0) > 1e-6 * values[0]
    identity = torch.eye(int(kept.sum()), dtype=torch.float64)
    torch.testing.assert_close(asked[:, kept].mT @ asked[:, kept], identity, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(2, 4))
def test_rows_too_short_for_the_fit_are_coded_group_by_group_as_well_as_it_goes(
    sizes: tuple[int, int, int, int, int], size: int, count: int
) -> None:
    """Each group's fitted values, cut to K directions by a singular value decomposition of their own."""
    phi, origins, teachers = problem(*sizes)
    groups = torch.arange(len(teachers[0].rows)) % count
    fitted = whole((phi, origins, teachers), 0.1)
    student = fit(moment_of(phi, origins, teachers), 0.1).student(size, groups)
    asked = unit(phi) @ student.queries
    scores = asked @ student.vectors(groups).mT
    width = asked.shape[1]
    if student.bases is None:
        assert width <= size or int(groups.max()) == 0
        return
    assert student.rows.shape[1] == min(size, int(groups.bincount().max())) < width
    lost, total = 0.0, float(fitted.square().sum())
    for group in range(int(groups.max()) + 1):
        own = fitted[:, groups == group]
        values = torch.linalg.svdvals(own)
        best = float(values[: student.rows.shape[1]].square().sum())
        assert float(scores[:, groups == group].square().sum()) == pytest.approx(best, abs=2 * LOST * total)
        lost += float(values.square().sum()) - float((own * scores[:, groups == group]).sum())
        basis = student.bases[group]
        lengths = torch.diagonal(basis.mT @ basis)
        torch.testing.assert_close(basis.mT @ basis, torch.diag(lengths.round()), rtol=0, atol=1e-9)
        own_rows, vectors = student.rows[groups == group], student.vectors(groups)[groups == group]
        torch.testing.assert_close(own_rows.norm(dim=1), vectors.norm(dim=1))
    assert student.kept == pytest.approx(1 - lost / total, abs=1e-6)


def test_one_model_s_units_do_not_weigh_it() -> None:
    """Each teacher's rows are divided by their own spread: a model with larger gradients says no more."""
    phi, origins, teachers = problem(20, 6, 5, 9, 3)
    louder = [teachers[0], Teacher(teachers[1].queries * 100, teachers[1].rows * 7, teachers[1].scales)]
    before, after = (
        fit(moment_of(phi, origins, some), 0.1).student(6, one_group(some)) for some in (teachers, louder)
    )
    scores = [unit(phi) @ student.queries @ student.rows.mT for student in (before, after)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [6, 2])
def test_scores_are_in_the_unit_of_the_teachers_mean_influence(size: int) -> None:
    """Query by query the slope through the origin of the teachers' mean I on the score; their median becomes 1."""
    phi, origins, teachers = problem(21, 6, 5, 9, 4, count=3)
    groups = torch.arange(9) % 2
    student = fit(moment_of(phi, origins, teachers), 0.1).student(size, groups)
    assert (student.bases is None) == (size == 6)
    scales = drawn(21, seed=9).abs()
    factor = slope(student, groups, phi, scales, iter(teachers))
    scores = factor * scales[:, None] * (phi @ student.queries @ student.vectors(groups).mT)
    mean = torch.stack([t.scales[:, None] * (t.queries.double() @ t.rows.double().mT) for t in teachers]).mean(dim=0)
    slopes = (mean * scores).sum(dim=1) / scores.square().sum(dim=1)
    assert float(slopes.median()) == pytest.approx(1.0)


def test_a_pseudo_query_without_a_direction_says_nothing() -> None:
    phi, origins, teachers = problem(8, 4, 3, 6, 5)
    silent = Teacher(teachers[0].queries.clone(), teachers[0].rows, teachers[0].scales)
    silent.queries[2] = 0.0
    features = unit(phi)
    features[2] = 0.0
    moment = TeacherMoment(features, origins)
    moment.add(silent)
    kept = torch.arange(8) != 2
    fewer = TeacherMoment(features[kept], origins[kept])
    fewer.add(Teacher(silent.queries[kept], silent.rows, silent.scales[kept]))
    torch.testing.assert_close(moment.crossed, fewer.crossed)


def test_pseudo_queries_without_any_gradient_are_refused() -> None:
    """As those of a hinge loss are where every margin is large."""
    phi, origins, teachers = problem(8, 4, 3, 6, 5)
    moment = TeacherMoment(0 * phi, origins)
    moment.add(teachers[0])
    with pytest.raises(CurvatureError, match="flat at every pseudo-query") as caught:
        fit(moment, 0.1)
    assert (caught.value.field, caught.value.reason) == ("curvature.teachers", "ZERO_GRADIENTS")


def test_without_any_influence_the_unit_stays() -> None:
    nothing = Student(torch.zeros(4, 2, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64))
    _, _, teachers = problem(8, 4, 3, 6, 5)
    phi, scales = drawn(8, 4, seed=1), torch.ones(8, dtype=torch.float64)
    assert slope(nothing, one_group(teachers), phi, scales, teachers) == 1.0


def test_teachers_that_say_nothing_are_kept_whole_and_not_coded() -> None:
    """As those of a hinge loss whose margins are all large: there is nothing that more numbers would hold."""
    phi, origins, teachers = problem(8, 4, 3, 6, 5)
    silent = [Teacher(each.queries, 0 * each.rows, each.scales) for each in teachers]
    found = fit(moment_of(phi, origins, silent), 0.1).student(2, torch.arange(6) % 2)
    assert found.bases is None and found.kept == 1.0
    assert found.rows.shape == (6, 2) and not bool(found.rows.any())
