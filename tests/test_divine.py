"""DIVINE: greedy steps are those of exhaustive search, gamma = 0 is plain top-k, and 1 means the same everywhere."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import stores
import tiny
from proponent.attribution.candidate_pool import Domain, Pool, median_bandwidth, rbf
from proponent.attribution.divine import FacilityLocation, MeanDiscrepancy, Selection, SumRedundancy, greedy
from proponent.explainer import EmbeddedQuery, Explainer
from proponent.explainer.diversity import diversify
from proponent.index.row_store import ResidentRows
from proponent.index.rows import InfluenceIndex
from proponent.index.scan import Query
from proponent.index.search import search
from proponent.index.searchable import RowScales
from proponent.index.store import Store
from proponent.options import Diversity, ExplainOptions, Measure, Redundancy, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.request_options import options_from
from proponent.results import Explanation, NoticeCode
from proponent.spec import load_spec
from proponent.stages import Stopwatch
from proponent.v1 import explanation_pb2 as pb

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


TERMS = {
    Redundancy.SUM: SumRedundancy,
    Redundancy.FACILITY_LOCATION: FacilityLocation,
    Redundancy.MMD: MeanDiscrepancy,
}


def candidates(influences: Tensor, rows: Tensor, domain: Tensor | None = None) -> Pool:
    return Pool(influences, rows, SIGMA, None if domain is None else Domain(len(domain), lambda: domain.split(7)))


def select(
    redundancy: Redundancy, influences: Tensor, rows: Tensor, domain: Tensor | None, k: int, gamma: float
) -> list[int]:
    found = candidates(influences, rows, domain)
    return greedy(found, TERMS[redundancy](found), k, gamma)


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
        found = value(select(Redundancy.FACILITY_LOCATION, influences, rows, None, 3, gamma))
        assert (1 - 1 / math.e) * best <= found <= best + 1e-5


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
    lazy = FacilityLocation(candidates(influences, rows))
    chosen = greedy(lazy.pool, lazy, 10, 0.1)
    assert lazy.computed < 10 * 2000 / 2
    value = objective(Redundancy.FACILITY_LOCATION, influences, rows, rows, 0.1)
    gains = [value([*chosen[:9], other]) for other in range(2000) if other not in chosen[:9]]
    assert value(chosen) == pytest.approx(max(gains), abs=1e-3)


@pytest.mark.parametrize("redundancy", [Redundancy.FACILITY_LOCATION, Redundancy.MMD])
def test_the_data_set_is_read_once_however_many_choices_are_tried(redundancy: Redundancy) -> None:
    influences, rows = pool(40, 8)
    read = []

    def domain() -> list[Tensor]:
        read.append(1)
        return list(pool(300, 8, seed=5)[1].split(64))

    selection = Selection(Pool(influences, rows, SIGMA, Domain(300, domain)), TERMS[redundancy], 12)
    selection.at(1.0)
    selection.within(0.2)
    assert len(read) == 1


POOLS = st.builds(
    lambda count, size, seed, spread: (pool(count, size, seed)[0] ** spread, pool(count, size, seed)[1]),
    st.integers(1, 24),
    st.integers(2, 6),
    st.integers(0, 2**20),
    st.floats(0, 6),
)


@settings(max_examples=120, deadline=None)
@given(POOLS, st.sampled_from(Redundancy), st.integers(1, 8), st.floats(0, 1), st.booleans())
def test_no_more_influence_is_lost_than_allowed(
    drawn: tuple[Tensor, Tensor], redundancy: Redundancy, k: int, loss: float, whole: bool
) -> None:
    influences, rows = drawn
    domain = pool(30, rows.shape[1], seed=5)[1] if whole else None
    selection = Selection(candidates(influences, rows, domain), TERMS[redundancy], k)
    choice = selection.within(loss)
    kept = float(influences[list(choice.members)].sum() / influences[:k].sum())
    assert kept >= 1 - loss - 1e-12
    assert selection.kept(choice) == pytest.approx(kept)
    value = objective(redundancy, torch.zeros_like(influences), rows, rows if domain is None else domain, 1.0)
    assert value(list(choice.members)) >= value(list(range(min(k, len(rows))))) - 1e-4
    assert selection.gained(choice) >= 0
    assert selection.within(1.0).diversity >= selection.alone.diversity


@settings(max_examples=120, deadline=None)
@given(POOLS, st.sampled_from(Redundancy), st.integers(1, 8), st.floats(0, 100), st.booleans())
def test_a_choice_is_worth_as_much_as_either_end(
    drawn: tuple[Tensor, Tensor], redundancy: Redundancy, k: int, gamma: float, unscaled: bool
) -> None:
    """Diversity is never paid for and not had; as the paper writes it, eq. 13 is what is compared."""
    influences, rows = drawn
    selection = Selection(candidates(influences, rows), TERMS[redundancy], k, unscaled=unscaled)
    choice = selection.at(gamma)
    assert len(choice.members) == len(set(choice.members)) == min(k, len(rows))
    assert 0 <= selection.kept(choice) <= 1 + 1e-12
    assert selection.gained(choice) >= -1e-9
    if unscaled:
        value = objective(redundancy, influences, rows, rows, gamma)
        assert value(list(choice.members)) >= value(list(selection.plain.members)) - 1e-4 * (1 + gamma)


def test_at_one_both_ends_are_worth_the_same() -> None:
    """Gamma in its own unit: just below 1 plain top-k is worth more than diversity alone, just above less."""
    influences, rows = pool(30)
    for redundancy, term in TERMS.items():
        selection = Selection(candidates(influences, rows), term, 6)
        plain, alone = selection.plain, selection.alone
        unit = (plain.influence - alone.influence) / (alone.diversity - plain.diversity)
        for gamma, sign in ((0.99, 1), (1.01, -1)):
            value = objective(redundancy, influences, rows, rows, gamma * unit)
            assert sign * (value(list(plain.members)) - value(list(alone.members))) > 0
            paper = Selection(candidates(influences, rows), term, 6, unscaled=True).at(gamma * unit)
            assert selection.at(gamma).members == paper.members


@pytest.mark.parametrize("redundancy", [Redundancy.FACILITY_LOCATION, Redundancy.MMD])
def test_gamma_does_not_depend_on_the_size_of_the_data_set(redundancy: Redundancy) -> None:
    influences, rows = pool(30)
    domain = pool(40, seed=5)[1]
    once = Selection(candidates(influences, rows, domain), TERMS[redundancy], 6)
    often = Selection(candidates(influences, rows, domain.repeat(25, 1)), TERMS[redundancy], 6)
    for gamma in (0.3, 1.0, 3.0):
        assert once.at(gamma).members == often.at(gamma).members
        assert once.gained(once.at(1.0)) > 0


def test_equal_influences_leave_the_choice_to_diversity() -> None:
    row, other = torch.eye(2)
    found = candidates(torch.ones(11, dtype=torch.float64), torch.stack([*[row] * 10, other]))
    for term in (SumRedundancy, FacilityLocation):
        assert Selection(found, term, 2).at(0.5).members == (0, 10)
        assert Selection(found, term, 2).within(0.0).members == (0, 10)


def test_duplicates_are_not_chosen_twice() -> None:
    """Ten copies of the strongest example and one other: a diverse pair holds the other one."""
    row, other = torch.eye(2)
    rows = torch.stack([*[row] * 10, other])
    influences = torch.tensor([1.0] * 10 + [0.5], dtype=torch.float64)
    for redundancy in (Redundancy.SUM, Redundancy.FACILITY_LOCATION):
        assert set(select(redundancy, influences, rows, None, 2, 5.0)) == {0, 10}


@pytest.mark.parametrize("bandwidth", [1e-310, 1e-170, 1e-25, 1e-19, 1e200])
@pytest.mark.parametrize("redundancy", list(Redundancy))
def test_the_smallest_and_largest_bandwidths_give_a_choice(redundancy: Redundancy, bandwidth: float) -> None:
    """Squares of these are 0 or infinite; equal rows are similar all the same, and different ones are not."""
    rows = torch.eye(4)[[0, 0, 1, 2]]
    kernel = rbf(rows, rows, bandwidth)
    assert torch.equal(kernel, torch.ones(4, 4) if bandwidth > 1 else (rows @ rows.mT))
    found = Pool(torch.tensor([1.0, 0.9, 0.8, 0.1], dtype=torch.float64), rows, bandwidth)
    assert len(Selection(found, TERMS[redundancy], 3).within(0.0).members) == 3


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
    for result, expected in zip(diverse.results, plain.results, strict=True):
        assert (result.proponents, result.opponents) == (expected.proponents, expected.opponents)
        for outcome in (result.proponents_diversity, result.opponents_diversity):
            assert outcome is not None
            assert (outcome.influence_kept, outcome.redundancy_gained) == (1.0, 0.0)
            assert outcome.mean_similarity == outcome.plain_similarity


def test_a_gamma_of_one_has_an_effect_of_the_same_order_with_every_term(explainer: Explainer) -> None:
    """What it costs, over both domains; as the paper writes them the terms keep all of the influence or little."""
    kept = {False: [], True: []}  # type: dict[bool, list[float]]
    for unscaled, shares in kept.items():
        for redundancy, whole in itertools.product(Redundancy, (False, True)):
            asked = Diversity(redundancy, whole_dataset=whole, unscaled=unscaled)
            answer = ask(explainer, ExplainOptions((Measure.INFLUENCE,), top_k=5, diversity=asked))
            outcome = answer.results[0].proponents_diversity
            assert outcome is not None
            shares.append(outcome.influence_kept)
    assert max(kept[False]) < 0.99 and min(kept[False]) > 0.3
    assert max(kept[True]) == 1.0
    assert max(kept[False]) - min(kept[False]) < max(kept[True]) - min(kept[True])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("redundancy", list(Redundancy))
def test_a_reply_says_what_diversity_cost_and_gave(explainer: Explainer, redundancy: Redundancy, whole: bool) -> None:
    asked = Diversity(redundancy, max_influence_loss=0.1, whole_dataset=whole)
    answer = ask(explainer, ExplainOptions(top_k=5, diversity=asked))
    plain = ask(explainer, ExplainOptions(top_k=5))
    for result, expected in zip(answer.results, plain.results, strict=True):
        ends = (
            (result.proponents, expected.proponents, result.proponents_diversity),
            (result.opponents, expected.opponents, result.opponents_diversity),
        )
        for found, strongest, outcome in ends:
            assert outcome is not None
            kept = sum(i.score for i in found) / sum(i.score for i in strongest)
            assert outcome.influence_kept == pytest.approx(kept) and kept >= 0.9 - 1e-9
            assert len(found) == 5
            assert 0 <= outcome.mean_similarity <= 1
            assert outcome.redundancy_gained >= 0
            if redundancy is Redundancy.SUM:
                assert outcome.mean_similarity <= outcome.plain_similarity


def test_rows_without_a_direction_are_not_covered(store: Store) -> None:
    """Two bundles that differ by rows without a direction choose alike over the whole data set."""
    whole = Explainer.load(store.current(stores.MODEL))
    scales = whole.index.scales
    asked = [
        ExplainOptions(top_k=5, diversity=Diversity(redundancy, whole_dataset=True, candidates=20))
        for redundancy in (Redundancy.FACILITY_LOCATION, Redundancy.MMD)
    ]
    before = [ask(whole, options).results for options in asked]
    blank = torch.zeros(200, whole.index._rows.width, dtype=torch.float16)
    more = {name: torch.cat([value, torch.zeros(200, dtype=value.dtype)]) for name, value in vars(scales).items()}
    rows = ResidentRows(torch.cat([whole.index._rows.codes, blank]))
    padded = InfluenceIndex(None, rows, RowScales(**more), whole.index.size)
    assert len(padded) == len(whole.index) + 200
    [query] = whole.embed(tiny.inputs(1), [Target()], Stopwatch())
    assert isinstance(query, EmbeddedQuery)
    [ends] = search(padded, [Query(query.direction, query.norm, 20)], tuple(Measure))
    for options, results in zip(asked, before, strict=True):
        assert options.diversity is not None
        for result in results:
            chosen, outcome = diversify(ends[result.measure][0], options.diversity, 5, padded, None)
            assert chosen.scores == [i.score for i in result.proponents]
            assert outcome == result.proponents_diversity


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
    assert zero[0]["proponents"] == plain[0]["proponents"] and zero[0]["opponents"] == plain[0]["opponents"]
    left_out = stores.output(*ask_for, "--diverse", "mmd", store=store)["results"]
    assert left_out == stores.output(*ask_for, "--diverse", "mmd", "--gamma", "1", store=store)["results"]
    assert left_out[0]["proponents"] != plain[0]["proponents"]
    assert 0 < left_out[0]["proponents_diversity"]["influence_kept"] < 1
    lossless = stores.output(*ask_for, "--diverse", "mmd", "--max-influence-loss", "0.05", store=store)["results"]
    assert lossless[0]["proponents_diversity"]["influence_kept"] >= 0.95
    assert lossless[0]["opponents_diversity"]["influence_kept"] >= 0.95
    paper = stores.output(*ask_for, "--diverse", "facility-location", "--unscaled", store=store)["results"]
    assert paper != stores.output(*ask_for, "--diverse", "facility-location", store=store)["results"]
    for wrong, expected in (
        (("--diverse", "nonsense"), "facility-location"),
        (("--diverse", "mmd", "--gamma", "1", "--max-influence-loss", "0.1"), "expected one of them"),
    ):
        refused = stores.run(*ask_for, *wrong, store=store)
        assert (refused.returncode, expected in refused.stderr) == (2, True)


def test_gamma_left_out_is_one_and_zero_is_zero() -> None:
    """Clients of before the field had presence send nothing for 0, and get the default."""
    options = [options_from(pb.ExplainRequest(diversity=d)) for d in (pb.Diversity(), pb.Diversity(gamma=0.0))]
    assert [o.diversity.gamma for o in options if o.diversity] == [1.0, 0.0]
    both = pb.Diversity.FromString(pb.Diversity(gamma=0.5).SerializeToString() + b"\x31" + struct.pack("<d", 0.2))
    assert both.WhichOneof("strength") == "max_influence_loss"
    assert pb.Diversity(gamma=0.5).SerializeToString() == b"\x11" + struct.pack("<d", 0.5)
