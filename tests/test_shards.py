"""Rows in shards answer as rows in one memory do, bit by bit, or not at all; no cluster is needed to see that."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import stores
import tiny
from proponent.attribution.groups import Population
from proponent.errors import CorruptBundleError, MismatchError, ProponentError, UnavailableError
from proponent.explainer import Explainer
from proponent.index import scan as scans
from proponent.index.bundle import ROWS, Manifest, read_manifest
from proponent.index.forgetting import forget
from proponent.index.row_code import CodedRows, RowCode
from proponent.index.row_store import ResidentRows
from proponent.index.rows import InfluenceIndex, padded
from proponent.index.scan import Query
from proponent.index.search import exact_scores, search
from proponent.index.searchable import RowScales, SearchableRows
from proponent.index.store import Store
from proponent.options import Diversity, Estimator, ExplainOptions, Filter, Measure, Redundancy, Target
from proponent.results import Explanation
from proponent.shards.scanner import Scanner
from proponent.shards.shard import divided, stretches
from proponent.shards.sharded_index import ShardedIndex
from proponent.worker.loading import LoadedBundle
from scanners_here import ScannersHere, sharded
from test_rows import random_rows, random_scales, unit

GROUPS = 4


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(count: int, size: int, seed: int, kinds: int) -> Tensor:
    """Unit rows of so many different ones, so that there are ties; every ninth is zero."""
    rows = random_rows(kinds, size, seed)[torch.arange(count) % kinds]
    rows[torch.arange(count) % 9 == 4] = 0
    return rows


def scales_of(count: int, seed: int, kinds: int) -> RowScales:
    """Ties of scales, too; some rows without direction, some all zero."""
    return RowScales(
        **{name: value[torch.arange(count) % kinds] for name, value in vars(random_scales(kinds, seed)).items()}
    )


def both(
    count: int, size: int, seed: int, kinds: int, shards: int, coded: bool
) -> tuple[SearchableRows, ShardedIndex]:
    """The same rows in one memory and in shards."""
    rows, scales = rows_of(count, size, seed, kinds), scales_of(count, seed, kinds)
    codes = torch.nn.functional.pad(rows, (0, padded(size) - size))
    if not coded:
        return InfluenceIndex(None, ResidentRows(codes), scales, size), sharded(codes, scales, size, shards)
    width = size + 5
    bases = torch.linalg.qr(drawn(GROUPS, width, size, seed=seed))[0].mT.contiguous()
    bases[1] = bases[0]  # so that rows of different groups tie as well
    code = RowCode(bases, torch.randint(GROUPS, (count,), generator=torch.Generator().manual_seed(seed)))
    stored = codes[code.order]
    whole = InfluenceIndex(None, CodedRows(ResidentRows(stored), code), scales, width, size)
    return whole, sharded(stored, scales, size, shards, code)


def asked(index: SearchableRows, batch: int, k: int, seed: int, filtered: bool) -> list[Query]:
    """Queries that share a filter, have one of their own, which empties some shards, or have none."""
    count = len(index)
    shared = torch.arange(count) % 3 != 0 if filtered else None
    masks = [shared, torch.arange(count) < count // 3 if filtered else None, None, shared]
    directions = unit(drawn(batch, index.size, seed=seed + 1))
    return [Query(each, 0.5 + b, k + b, masks[b % 4]) for b, each in enumerate(directions)]


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 90),
    size=st.integers(1, 24),
    kinds=st.integers(1, 90),
    shards=st.integers(1, 12),
    batch=st.integers(1, 5),
    k=st.integers(1, 100),
    seed=st.integers(0, 1000),
    coded=st.booleans(),
    filtered=st.booleans(),
)
def test_shards_give_the_lists_of_one_scan(
    count: int, size: int, kinds: int, shards: int, batch: int, k: int, seed: int, coded: bool, filtered: bool
) -> None:
    """Ids, scores and order: with ties, zero rows, rows without direction, and lists longer than a shard."""
    whole, parts = both(count, size, seed, kinds, shards, coded)
    queries = asked(whole, batch, k, seed, filtered)
    assert search(parts, queries, tuple(Measure)) == search(whole, queries, tuple(Measure))
    chosen = [0, count - 1, count // 2, 0]
    for measure in Measure:
        assert exact_scores(parts, queries[0], chosen, measure) == exact_scores(whole, queries[0], chosen, measure)


@pytest.mark.parametrize("coded", [False, True])
def test_near_ties_that_reach_over_shards_are_told_apart(monkeypatch: pytest.MonkeyPatch, coded: bool) -> None:
    """Products cannot tell more rows from each other than are looked at first, so that scanners are asked again."""
    monkeypatch.setattr(scans, "COARSE_SPARE", 1)
    whole, parts = both(600, 24, 3, 1, 3, coded)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(5))
    for index in (whole, parts):
        index.exact_scales *= 1 + 1e-9 * order.double()
    queries = asked(whole, 1, 25, 3, filtered=False)
    found = search(parts, queries, tuple(Measure))
    assert found == search(whole, queries, tuple(Measure))
    assert isinstance(parts._scanners, ScannersHere) and "more" in parts._scanners.asked


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(1, 5000),
    shards=st.integers(1, 7),
    exponent=st.floats(-40, 40),
    seed=st.integers(0, 1000),
    coded=st.booleans(),
)
def test_what_else_is_asked_of_rows_is_the_same_in_shards(
    count: int, shards: int, exponent: float, seed: int, coded: bool
) -> None:
    whole, parts = both(count, 17, seed, 50, shards, coded)
    chosen = torch.randint(count, (20,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(parts.unit_rows(chosen), whole.unit_rows(chosen))
    for (place, block), (expected, rows) in zip(parts.blocks(), whole.blocks(), strict=True):
        assert place == expected and torch.equal(block, rows)
    weights = drawn(count, seed=seed).double().mul(3).exp() * 10.0**exponent
    assert torch.equal(parts.weighted_sum(weights), whole.weighted_sum(weights))
    directions = unit(drawn(2, whole.size, seed=seed))
    products = parts.products(directions, precise=True)
    torch.testing.assert_close(products, whole.products(directions, precise=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
@pytest.mark.parametrize("shards", [1, 2, 3, 64])
def test_shards_cover_all_rows_once_and_none_is_empty(count: int, shards: int) -> None:
    places = stretches(count, shards)
    assert [row for place in places for row in range(place.start, place.stop)] == list(range(count))
    sizes = [place.stop - place.start for place in places]
    assert len(places) == min(shards, count) and max(sizes) - min(sizes) <= 1 and min(sizes) > 0


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.build(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def store(spec: Path, tmp_path: Path) -> Store:
    return stores.copy(spec.parents[1], tmp_path / "store")


def in_shards(bundle: Path, manifest: Manifest, shards: int = 3) -> ShardedIndex:
    return ShardedIndex.of_bundle(bundle, manifest, shards, ScannersHere.loaded)


def opened(store: Store, shards: int = 3) -> tuple[Explainer, Explainer]:
    """With the rows in this process, and in shards."""
    bundle = store.current(stores.MODEL)
    return Explainer.load(bundle), Explainer.load(bundle, open_rows=partial(in_shards, shards=shards))


def without_times(answers: list[Explanation | ProponentError]) -> list[Explanation]:
    found = [replace(answer, timings={}) for answer in answers if isinstance(answer, Explanation)]
    assert len(found) == len(answers)
    return found


ASKED = [
    ExplainOptions(top_k=5),
    ExplainOptions(top_k=stores.COUNT),
    ExplainOptions((Measure.L_RELATIF,), top_k=7, filter=Filter(allow=frozenset({0}), exclude=("toy/3", "toy/9"))),
    ExplainOptions(top_k=4, filter=Filter(deny=frozenset({1, 2}))),
    *(
        ExplainOptions(top_k=4, diversity=Diversity(kind, gamma=2.0, candidates=12, whole_dataset=whole))
        for kind in Redundancy
        for whole in (False, True)
    ),
]


def check_answers(alone: Explainer, parts: Explainer) -> None:
    """Every kind of answer, bit by bit."""
    inputs = tiny.inputs(len(ASKED))
    expected = without_times(alone.explain(inputs, ASKED))
    assert without_times(parts.explain(inputs, ASKED)) == expected
    assert any(result.proponents for result in expected[2].results)
    names = ["toy/7", "toy/39", "toy/0"]
    value, options = inputs[0], ExplainOptions()
    assert parts.score_examples(value, names, options) == alone.score_examples(value, names, options)
    for estimator in Estimator:
        estimates = [
            each.estimate_removal(value, Target(against=1), names, estimator=estimator) for each in (alone, parts)
        ]
        assert estimates[0] == estimates[1]
    assert [parts.find_flip_set(value) for value in inputs] == [alone.find_flip_set(value) for value in inputs]


@pytest.mark.parametrize("shards", [1, 3, 100])
def test_an_explainer_over_shards_answers_everything_alike(store: Store, shards: int) -> None:
    check_answers(*opened(store, shards))


def test_examples_are_forgotten_in_shards_and_compacted_out_of_them(store: Store) -> None:
    explainers = opened(store)
    forget(store, stores.MODEL, ["toy/1", "toy/30"])
    check_answers(*explainers)
    [answer] = without_times(explainers[1].explain(tiny.inputs(1), [ExplainOptions(top_k=stores.COUNT)]))
    told = {i.example_id for result in answer.results for i in (*result.proponents, *result.opponents)}
    assert told and not told & {"toy/1", "toy/30"}
    forget(store, stores.MODEL, ["toy/2"], compact=True)
    check_answers(*opened(store))


def test_the_process_that_asks_maps_no_rows(store: Store) -> None:
    """Scanners have copied theirs; what is left of the rows here is their scales."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps here to look at")
    bundle = store.current(stores.MODEL)
    parts = Explainer.load(bundle, open_rows=in_shards)
    parts.explain(tiny.inputs(1), [ExplainOptions()])
    assert str(bundle / ROWS) not in maps.read_text()


def test_a_lost_shard_makes_no_answer_smaller(store: Store) -> None:
    """Each kind of answer is refused, with a reason, and given again once the shard is back."""
    _, parts = opened(store)
    scanners = parts.index._scanners  # type: ignore[attr-defined]
    value, options = tiny.inputs(1)[0], ExplainOptions(top_k=3)
    [before] = without_times(parts.explain([value], [options]))
    scanners.lost.add(1)
    calls = [
        lambda: parts.explain([value], [options]),
        lambda: parts.score_examples(value, ["toy/20"], options),
        lambda: parts.estimate_removal(value, Target(), ["toy/20"]),
        lambda: parts.find_flip_set(value),
        parts.check,
    ]
    for call in calls:
        with pytest.raises(UnavailableError, match="were lost") as caught:
            call()
        assert caught.value.reason == "SHARD_LOST"
    scanners.lost.clear()
    assert without_times(parts.explain([value], [options])) == [before]


def test_a_worker_keeps_its_bundle_while_a_shard_is_away(store: Store) -> None:
    loads: list[Explainer] = []

    def load() -> Explainer:
        loads.append(opened(store)[1])
        return loads[-1]

    loaded = LoadedBundle(load)
    scanners = loads[0].index._scanners  # type: ignore[attr-defined]
    scanners.lost.add(0)
    told = loaded.checked()
    assert isinstance(told, UnavailableError) and told.reason == "SHARD_LOST"
    scanners.lost.clear()
    assert loaded.checked() is loads[0] and len(loads) == 1


def test_a_scanner_refuses_rows_that_are_not_those_that_were_divided(store: Store) -> None:
    """On another node another file may lie at the same path."""
    bundle = store.current(stores.MODEL)
    manifest = read_manifest(bundle)
    size = 2 * padded(manifest.embedding_size)
    shards = divided(bundle, manifest, stores.COUNT, size, 3)
    with pytest.raises(MismatchError, match="holds bundle"):
        Scanner(1).load(replace(shards[0], digest="0" * 64))
    content = bytearray((bundle / ROWS).read_bytes())
    content[-1] ^= 1
    (bundle / ROWS).write_bytes(content)
    Scanner(1).load(shards[0])
    with pytest.raises(CorruptBundleError, match=r"rows 26 to 39 of .*rows\.faiss have SHA-256"):
        Scanner(1).load(shards[2])
    with pytest.raises(CorruptBundleError, match=r"damaged: .*rows\.faiss has SHA-256"):
        Explainer.load(bundle, open_rows=in_shards)
    (bundle / ROWS).unlink()
    with pytest.raises(CorruptBundleError, match=r"missing: .*rows\.faiss"):
        Explainer.load(bundle, open_rows=in_shards)


@pytest.mark.parametrize("one_sided", [False, True])
def test_sums_are_the_same_in_every_order_and_close_to_those_of_float64(one_sided: bool) -> None:
    """Also where all rows and weights are as large as they can be and none is undone by another."""
    rows = torch.eye(24)[torch.zeros(5000, dtype=torch.long)].half() if one_sided else rows_of(5000, 24, 0, 5000)
    codes = torch.nn.functional.pad(rows, (0, padded(24) - 24))
    weights = drawn(5000, seed=1).double().mul(4).exp() * torch.where(torch.arange(5000) % 2 == 0, 1.0, -1.0)
    weights = 1 - weights.abs() / weights.abs().max() / 100 if one_sided else weights
    found = ResidentRows(codes).weighted_sum(weights)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(2))
    assert torch.equal(found, ResidentRows(codes[order]).weighted_sum(weights[order]))
    expected = weights @ codes.double()
    torch.testing.assert_close(found, expected, rtol=0, atol=5000 * float(weights.abs().max()) * 2.0**-36)
    mean = Population.of(InfluenceIndex(None, ResidentRows(codes), random_scales(5000), 24), weights.abs()).mean
    torch.testing.assert_close(mean, weights.abs() @ rows.double() / 5000, rtol=1e-7, atol=1e-7)
