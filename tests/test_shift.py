"""The Newton step of a removal against a dense solve, and the search for the shortest prefix that flips."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proponent.attribution import groups
from proponent.attribution.groups import Population, first_order_shift, influence_sum_shift, second_order_shift
from proponent.explainer.removal import _shortest


@dataclass(frozen=True)
class Table:
    """Unit rows in memory."""

    units: Tensor

    @property
    def size(self) -> int:
        return self.units.shape[1]

    def __len__(self) -> int:
        return len(self.units)

    def unit_rows(self, rows: Tensor) -> Tensor:
        return self.units[rows].float()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return weights @ self.units.double()


def table(count: int) -> tuple[Table, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    units = torch.nn.functional.normalize(torch.randn(count, 12, generator=generator, dtype=torch.float64), dim=1)
    norms = torch.rand(count, generator=generator, dtype=torch.float64) * 4
    return Table(units.float()), norms, norms.square() * torch.rand(count, generator=generator, dtype=torch.float64)


def dense(rows: Table, norms: Tensor, curvature: Tensor, members: Tensor) -> Tensor:
    """The same by forming A, in float64."""
    units, count = rows.units.double(), len(rows)
    removed = members.double() - members.double().mean()
    a = (1 - members.double().mean()) * torch.eye(12, dtype=torch.float64)
    a -= units.T @ (removed[:, None] * curvature[:, None] * units) / count
    return torch.linalg.solve(a, units.T @ (removed * norms) / count)


@pytest.mark.parametrize("held", [1 << 28, 0])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_newton_step_is_that_of_a_dense_solve(share: float, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_HELD", held)
    monkeypatch.setattr(groups, "_BLOCK", 37)
    rows, norms, curvature = table(300)
    members = torch.arange(300) % round(1 / share) == 0
    found = second_order_shift(rows, norms, curvature, members, 300, Population.of(rows, norms))
    torch.testing.assert_close(found, dense(rows, norms, curvature, members), rtol=1e-3, atol=1e-6)


def test_first_order_is_the_second_with_the_curvature_of_all() -> None:
    rows, norms, curvature = table(300)
    members, population = torch.arange(300) % 3 == 0, Population.of(rows, norms)
    found = first_order_shift(rows, norms, members, 300, population)
    torch.testing.assert_close(found, dense(rows, norms, 0 * curvature, members), rtol=1e-5, atol=1e-8)
    phi = rows.units.double() * norms[:, None]
    expected = phi[members].sum(dim=0) / 300
    torch.testing.assert_close(influence_sum_shift(rows, norms, members, 300), expected, rtol=1e-5, atol=1e-8)


def test_rows_without_curvature_are_read_for_their_sum_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of distilled scores are: nobody else's row is read, and none of the group a second time."""
    read: list[int] = []
    rows, norms, curvature = table(300)
    population, members = Population.of(rows, norms), torch.arange(300) % 10 == 0
    given = Table.unit_rows
    monkeypatch.setattr(Table, "unit_rows", lambda self, some: read.extend(some.tolist()) or given(self, some))
    found = second_order_shift(rows, norms, 0 * curvature, members, 300, population)
    assert read == members.nonzero().flatten().tolist()
    torch.testing.assert_close(found, first_order_shift(rows, norms, members, 300, population))


def test_a_sample_of_the_population_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SAMPLE", 500)
    rows, norms, curvature = table(4000)
    members = torch.arange(4000) % 50 == 0
    population = Population.of(rows, norms)
    assert len(population.sample) == 500
    found = second_order_shift(rows, norms, curvature, members, 4000, population)
    expected = dense(rows, norms, curvature, members)
    assert float((found - expected).norm() / expected.norm()) < 0.01


def test_a_heavy_row_that_the_sample_lacks_leaves_the_step_well_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memorised example carries most of the curvature along its own direction."""
    monkeypatch.setattr(groups, "SAMPLE", 400)
    rows, norms, curvature = table(4000)
    rows.units[:, 0] = 0
    rows.units[1] = torch.eye(12)[0]
    norms[1], curvature[1] = 40.0, 0.9 * 4000
    curvature *= 0.2
    population = Population.of(rows, norms)
    assert 1 not in population.sample
    members = torch.arange(4000) % 2 == 1
    found = second_order_shift(rows, norms, curvature, members, 4000, population)
    expected = dense(rows, norms, curvature, members)
    assert float((found - expected).norm() / expected.norm()) < 0.02


@settings(max_examples=200, deadline=None)
@given(
    limit=st.integers(1, 5000),
    crossing=st.floats(0.5, 6000),
    bend=st.floats(0.3, 3),
    likely=st.integers(0, 5000),
)
def test_the_shortest_prefix_is_found_with_few_evaluations(
    limit: int, crossing: float, bend: float, likely: int
) -> None:
    asked = []

    def left(count: int) -> float:
        asked.append(count)
        return 1 - (count / crossing) ** bend

    found = _shortest(left, 1.0, min(likely, limit), limit)
    expected = next((count for count in range(1, limit + 1) if 1 - (count / crossing) ** bend < 0), None)
    assert found == expected
    assert len(asked) == len(set(asked)) <= 2 + 2 * limit.bit_length()


def test_a_good_guess_saves_evaluations() -> None:
    asked = []

    def margin(count: int) -> float:
        return 2 - count / 400 - (count / 1500) ** 2

    found = _shortest(lambda count: asked.append(count) or margin(count), 2.0, 800, 6000)
    assert found == next(count for count in range(6000) if margin(count) < 0)
    assert len(asked) <= 6
