"""DIVINE: the greedy choice is what exhaustive search of every step gives, and gamma = 0 is plain top-k."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import stores
import tiny
from proponent.attribution.divine import (
    PoolDomain,
    StreamedDomain,
    facility_location,
    mean_discrepancy,
    median_bandwidth,
    rbf,
    sum_redundancy,
)
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Diversity, ExplainOptions, Explanation, Measure, NoticeCode, Redundancy
from proponent.spec import load_spec

SIGMA = 0.8
Objective = Callable[[list[int]], float]


def pool(count: int = 12, size: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows in a few tight clusters, and scaled influences, strongest first."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, size, generator=generator)
    rows = centres[torch.arange(count) % 3] + 0.4 * torch.randn(count, size, generator=generator)
    influences = torch.rand(count, generator=generator, dtype=torch.float64).sort(descending=True).values
    return influences / influences[0], normalize(rows, dim=1)


def kernel(left: Tensor, right: Tensor) -> Tensor:
    """The RBF kernel by its definition, float64."""
    return torch.exp(-torch.cdist(left.double(), right.double()).square() / (2 * SIGMA**2))


def objective(redundancy: Redundancy, influences: Tensor, rows: Tensor, domain: Tensor, gamma: float) -> Objective:
    """Eq. 13 for one set, from the formulas of Bhatt et al. 2021; kappa left out."""
    inside, outside = kernel(rows, rows), kernel(domain, rows)

    def value(chosen: list[int]) -> float:
        within = float(inside[chosen][:, chosen].sum())
        if redundancy is Redundancy.SUM:
            term = -within
        elif redundancy is Redundancy.FACILITY_LOCATION:
            term = float(outside[:, chosen].amax(dim=1).sum())
        else:
            count, n = len(chosen), len(domain)
            term = 2 / (n * count) * float(outside[:, chosen].sum()) - within / count**2
        return float(influences[chosen].sum()) + gamma * term

    return value


def select(
    redundancy: Redundancy, influences: Tensor, rows: Tensor, domain: Tensor | None, k: int, gamma: float
) -> list[int]:
    if redundancy is Redundancy.SUM:
        return sum_redundancy(influences, rows, k, gamma, SIGMA)
    found = PoolDomain(rows, SIGMA) if domain is None else StreamedDomain(rows, SIGMA, lambda: domain.split(7))
    if redundancy is Redundancy.FACILITY_LOCATION:
        return facility_location(influences, k, gamma, found)
    return mean_discrepancy(influences, rows, k, gamma, SIGMA, found)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("gamma", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("redundancy", list(Redundancy))
def test_every_greedy_step_is_the_best_one(redundancy: Redundancy, gamma: float, whole: bool) -> None:
    influences, rows = pool()
    domain = pool(30, seed=5)[1] if whole else None
    value = objective(redundancy, influences, rows, rows if domain is None else domain, gamma)
    chosen = select(redundancy, influences, rows, domain, 6, gamma)
    assert len(set(chosen)) == 6
    for step in range(6):
        before = chosen[:step]
        best = max(value([*before, other]) for other in range(len(rows)) if other not in before)
        assert value(chosen[: step + 1]) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
def test_facility_location_keeps_its_bound(gamma: float) -> None:
    """Monotone submodular: the greedy set is worth at least 1 - 1/e of the best of all sets."""
    for seed in range(5):
        influences, rows = pool(10, seed=seed)
        value = objective(Redundancy.FACILITY_LOCATION, influences, rows, rows, gamma)
        best = max(value(list(chosen)) for chosen in itertools.combinations(range(10), 3))
        greedy = value(facility_location(influences, 3, gamma, PoolDomain(rows, SIGMA)))
        assert (1 - 1 / math.e) * best <= greedy <= best + 1e-5


@pytest.mark.parametrize(("redundancy", "submodular"), [(Redundancy.SUM, True), (Redundancy.FACILITY_LOCATION, True)])
def test_terms_called_submodular_are(redundancy: Redundancy, submodular: bool) -> None:
    """The gain of an element shrinks as the set grows, for every pair of nested sets of a small pool."""
    influences, rows = pool(6)
    value = objective(redundancy, torch.zeros_like(influences), rows, rows, 1.0)
    for small in itertools.combinations(range(6), 2):
        for extra, element in itertools.permutations(set(range(6)) - set(small), 2):
            less = value([*small, element]) - value([*small])
            more = value([*small, extra, element]) - value([*small, extra])
            assert (more <= less + 1e-9) == submodular


def test_lazy_choice_computes_few_gains() -> None:
    influences, rows = pool(2000, 16)

    class Counting(PoolDomain):
        asked = 0

        def columns(self, chosen: Tensor) -> Tensor:
            Counting.asked += len(chosen)
            return super().columns(chosen)

    domain = Counting(rows, SIGMA)
    assert facility_location(influences, 10, 0.1, domain) == facility_location(
        influences, 10, 0.1, PoolDomain(rows, SIGMA)
    )
    assert Counting.asked < 10 * 2000 / 2


def test_duplicates_are_not_chosen_twice() -> None:
    """Ten copies of the strongest example and one other: a diverse pair holds the other one."""
    row, other = torch.eye(2)
    rows = torch.stack([*[row] * 10, other])
    influences = torch.tensor([1.0] * 10 + [0.5], dtype=torch.float64)
    for redundancy in (Redundancy.SUM, Redundancy.FACILITY_LOCATION):
        assert set(select(redundancy, influences, rows, None, 2, 5.0)) == {0, 10}


def test_median_rule() -> None:
    rows = torch.eye(5)
    assert median_bandwidth(rows) == pytest.approx(math.sqrt(2))
    assert median_bandwidth(rows[:1].expand(8, -1)) == 1.0
    assert median_bandwidth(rows[:1]) == 1.0
    many = pool(1000, 8)[1]
    exact = float(torch.pdist(many).median())
    assert median_bandwidth(many) == pytest.approx(exact, rel=0.1)


def test_kernel_is_the_rbf_of_unit_rows() -> None:
    _, rows = pool()
    torch.testing.assert_close(rbf(rows, rows, SIGMA).double(), kernel(rows, rows), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("divine")
    rebuild(load_spec(tiny.project(root / "toy", count=60)), Store(root / "store"), RebuildOptions(quiet=True))
    return Store(root / "store")


@pytest.fixture(scope="module")
def explainer(store: Store) -> Explainer:
    return Explainer.load(store.current(stores.MODEL))


def ask(explainer: Explainer, options: ExplainOptions) -> Explanation:
    [answer] = explainer.explain(tiny.inputs(1), [options])
    assert isinstance(answer, Explanation)
    return answer


@pytest.mark.parametrize("redundancy", list(Redundancy))
def test_gamma_zero_is_plain_top_k(explainer: Explainer, redundancy: Redundancy) -> None:
    plain = ask(explainer, ExplainOptions(top_k=5))
    diverse = ask(explainer, ExplainOptions(top_k=5, diversity=Diversity(redundancy, gamma=0.0)))
    assert diverse.results == plain.results


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("redundancy", list(Redundancy))
def test_both_ends_of_all_measures_are_diverse(explainer: Explainer, redundancy: Redundancy, whole: bool) -> None:
    diversity = Diversity(redundancy, gamma=2.0, candidates=20, whole_dataset=whole)
    answer = ask(explainer, ExplainOptions(top_k=4, diversity=diversity))
    plain = ask(explainer, ExplainOptions(top_k=20))
    changed = 0
    for result, full in zip(answer.results, plain.results, strict=True):
        for end, candidates in ((result.proponents, full.proponents), (result.opponents, full.opponents)):
            scores = {i.example_id: i.score for i in candidates}
            assert len(end) == 4
            assert all(i.score == scores[i.example_id] for i in end)
            assert [i.rank for i in end] == [1, 2, 3, 4]
            assert [abs(i.score) for i in end] == sorted((abs(i.score) for i in end), reverse=True)
            changed += [i.example_id for i in end] != [i.example_id for i in candidates[:4]]
    assert changed > 0


def test_capped_candidates_are_told(explainer: Explainer) -> None:
    asked = Diversity(gamma=1.0, candidates=1000)
    answer = ask(explainer, ExplainOptions((Measure.INFLUENCE,), top_k=3, diversity=asked))
    [notice] = [n for n in answer.notices if n.code is NoticeCode.CANDIDATES_CAPPED]
    assert 0 < notice.count < 60
    full = ask(explainer, ExplainOptions((Measure.INFLUENCE,), top_k=60))
    assert notice.count == min(len(full.results[0].proponents), len(full.results[0].opponents))
    raised = ask(explainer, ExplainOptions(top_k=8, diversity=Diversity(gamma=1.0, candidates=2)))
    assert [n.count for n in raised.notices if n.code is NoticeCode.CANDIDATES_CAPPED] == [8]


def test_the_command_line_asks_for_diversity(store: Store, tmp_path: Path) -> None:
    Image.fromarray(tiny.pictures(1, 1)[0][0].numpy()).save(tmp_path / "x.png")
    ask_for = ("explain", tmp_path / "x.png", "--top-k", "4", "--measure", "influence")
    plain = stores.output(*ask_for, store=store)["results"]
    zero = stores.output(*ask_for, "--diverse", "mmd", "--gamma", "0", store=store)["results"]
    assert zero == plain
    diverse = stores.output(*ask_for, "--diverse", "sum-redundancy", "--gamma", "5", store=store)["results"]
    assert diverse != plain
    refused = stores.run(*ask_for, "--diverse", "nonsense", store=store)
    assert (refused.returncode, "facility-location" in refused.stderr) == (2, True)
