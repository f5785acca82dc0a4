"""The scan finds what a brute-force float64 search over the stored fp16 rows finds, whatever the batch or filter."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from proponent.errors import CorruptBundleError
from proponent.index.row_store import HALF_ERROR, SINGLE_ERROR
from proponent.index.rows import InfluenceIndex, padded, read_scales, write_rows, write_scales
from proponent.index.scan import Query
from proponent.index.search import Hits, exact_scores, search
from proponent.index.searchable import RowScales
from proponent.options import Measure

MEASURES = tuple(Measure)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)


def random_rows(count: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(count, size, generator=generator)).half()


def random_scales(count: int, seed: int = 0, spread: float = 3.0) -> RowScales:
    """Norms over many orders of magnitude; every fifth row has no direction, every seventh is all zero."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.arange(count)

    def draw() -> Tensor:
        return torch.where(number % 7 == 3, 0.0, torch.exp(spread * torch.randn(count, generator=generator).double()))

    norms = draw()
    return RowScales(
        norms=norms,
        self_influence=draw(),
        relative_theta=draw(),
        relative_l=draw(),
        has_direction=(number % 5 != 2) & (norms > 0),
        curvature=norms.square(),
    )


def constant_scales(values: Tensor) -> RowScales:
    return RowScales(*(values.clone() for _ in range(4)), values > 0, values.clone())


def build(directory: Path, rows: Tensor, scales: RowScales) -> InfluenceIndex:
    assert write_rows(directory / "rows.faiss", rows.split(17), rows.shape[1]) == len(rows)
    write_scales(directory / "scales.safetensors", scales)
    return InfluenceIndex.open(directory / "rows.faiss", directory / "scales.safetensors", rows.shape[1])


def weight(scales: RowScales, measure: Measure) -> Tensor:
    if measure is Measure.INFLUENCE:
        return scales.norms
    ratio = scales.relative_theta if measure is Measure.THETA_RELATIF else scales.relative_l
    return ratio * scales.has_direction


def brute_force(rows: Tensor, scales: RowScales, query: Query, measure: Measure) -> tuple[Hits, Hits]:
    """Both ends by sorting every score in float64; ties by row."""
    scores = (rows.double() @ query.direction.double()) * weight(scales, measure) * query.norm
    allowed = torch.ones(len(rows), dtype=torch.bool) if query.eligible is None else query.eligible
    ends = []
    for sign in (1, -1):
        found = [(-sign * s, row) for row, s in enumerate(scores.tolist()) if sign * s > 0 and allowed[row]]
        best = sorted(found)[: query.k]
        ends.append(Hits([row for _, row in best], [-sign * s for s, _ in best]))
    return ends[0], ends[1]


def check(index: InfluenceIndex, rows: Tensor, scales: RowScales, queries: Sequence[Query]) -> None:
    for query, found in zip(queries, search(index, queries, MEASURES), strict=True):
        for measure in MEASURES:
            for end, expected in zip(found[measure], brute_force(rows, scales, query, measure), strict=True):
                assert end.rows == expected.rows
                assert end.scores == pytest.approx(expected.scores, rel=1e-9)


def queries_of(count: int, size: int, k: int, seed: int = 1) -> list[Query]:
    directions = unit(random_rows(count, size, seed).float())
    return [Query(direction, 0.25 * (b + 1), k) for b, direction in enumerate(directions)]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 2), (40, 16), (500, 33), (5000, 96)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("k", [1, 10])
def test_the_search_is_exact(tmp_path: Path, count: int, size: int, batch: int, k: int) -> None:
    rows, scales = random_rows(count, size), random_scales(count)
    check(build(tmp_path, rows, scales), rows, scales, queries_of(batch, size, k))


def test_more_than_there_are_gives_all_there_are(tmp_path: Path) -> None:
    rows, scales = random_rows(40, 8), random_scales(40)
    index = build(tmp_path, rows, scales)
    check(index, rows, scales, queries_of(2, 8, 1000))
    [found] = search(index, queries_of(1, 8, 1000), [Measure.INFLUENCE])
    pro, con = found[Measure.INFLUENCE]
    assert sorted(pro.rows + con.rows) == [row for row in range(40) if row % 7 != 3]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_filters_change_who_may_answer_and_nothing_else(tmp_path: Path, share: float) -> None:
    rows, scales = random_rows(600, 24), random_scales(600)
    mask = torch.rand(600, generator=torch.Generator().manual_seed(4)) < share
    queries = [Query(q.direction, q.norm, q.k, mask) for q in queries_of(3, 24, 7)]
    check(build(tmp_path, rows, scales), rows, scales, queries)


def test_ties_go_to_the_lower_row(tmp_path: Path) -> None:
    rows = random_rows(4, 8)[torch.arange(200) % 4]
    scales = constant_scales(torch.ones(200, dtype=torch.float64))
    index = build(tmp_path, rows, scales)
    check(index, rows, scales, queries_of(2, 8, 9))
    [found] = search(index, [Query(unit(rows[:1].float())[0], 1.0, 9)], [Measure.INFLUENCE])
    assert found[Measure.INFLUENCE][0].rows == list(range(0, 36, 4))


def test_rows_closer_than_fp16_can_tell_are_ranked_exactly(tmp_path: Path) -> None:
    """Scales that differ by far less than the error of the product decide."""
    rows = random_rows(1, 64).expand(3000, 64).contiguous()
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(5))
    scales = constant_scales(1 + 1e-9 * order.double())
    check(build(tmp_path, rows, scales), rows, scales, [Query(unit(rows[:1].float())[0], 1.0, 25)])


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20])
def test_tiny_and_huge_norms_are_ranked_like_any_others(tmp_path: Path, size: float) -> None:
    rows, scales = random_rows(300, 24), random_scales(300, spread=1.0)
    scales = RowScales(**{**vars(scales), "norms": scales.norms * size})
    queries = [Query(q.direction, size, q.k) for q in queries_of(2, 24, 12)]
    check(build(tmp_path, rows, scales), rows, scales, queries)


def test_norms_over_sixty_orders_of_magnitude_are_all_found(tmp_path: Path) -> None:
    rows = random_rows(120, 24)
    scales = constant_scales(10.0 ** -(torch.arange(120, dtype=torch.float64) / 2))
    check(build(tmp_path, rows, scales), rows, scales, queries_of(2, 24, 120))


@pytest.mark.parametrize("largest", [1.0, 1e-33, 1e-50])
def test_norms_beyond_float32_are_ranked_like_any_others(tmp_path: Path, largest: float) -> None:
    """Also where more rows than asked for have them, so that the scan sees no difference between these."""
    rows = random_rows(300, 24)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(6))
    scales = constant_scales(largest * 10.0 ** -(order.double() / 6))
    check(build(tmp_path, rows, scales), rows, scales, queries_of(2, 24, 5))
    mask = order >= 200
    check(
        build(tmp_path, rows, scales), rows, scales, [Query(q.direction, 1.0, 7, mask) for q in queries_of(2, 24, 5)]
    )


def test_a_zero_query_and_an_all_zero_index_give_nothing(tmp_path: Path) -> None:
    rows = random_rows(30, 8)
    index = build(tmp_path, rows, constant_scales(torch.zeros(30, dtype=torch.float64)))
    [found] = search(index, queries_of(1, 8, 5), MEASURES)
    assert all(end == Hits([], []) for ends in found.values() for end in ends)
    index = build(tmp_path, rows, random_scales(30))
    [found] = search(index, [Query(torch.zeros(8), 0.0, 5)], MEASURES)
    assert all(end == Hits([], []) for ends in found.values() for end in ends)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 60),
    size=st.integers(1, 40),
    k=st.integers(1, 70),
    seed=st.integers(0, 1000),
    spread=st.floats(0, 15),
    filtered=st.booleans(),
)
def test_the_search_is_exact_whatever_the_sizes(
    count: int, size: int, k: int, seed: int, spread: float, filtered: bool
) -> None:
    rows, scales = random_rows(count, size, seed), random_scales(count, seed, spread)
    mask = torch.arange(count) % 3 != 0 if filtered else None
    queries = [Query(q.direction, q.norm, k, mask) for q in queries_of(2, size, k, seed + 1)]
    with tempfile.TemporaryDirectory() as directory:
        check(build(Path(directory), rows, scales), rows, scales, queries)


def test_a_query_has_the_same_answer_alone_and_among_31_others(tmp_path: Path) -> None:
    rows, scales = random_rows(3000, 48), random_scales(3000)
    index = build(tmp_path, rows, scales)
    queries = queries_of(32, 48, 10)
    together = search(index, queries, MEASURES)
    assert together == [search(index, [query], MEASURES)[0] for query in queries]


def test_named_scores_are_those_of_the_search_and_of_float64(tmp_path: Path) -> None:
    rows, scales = random_rows(300, 24), random_scales(300)
    index = build(tmp_path, rows, scales)
    [query] = queries_of(1, 24, 5)
    chosen = [7, 299, 0, 7]
    for measure in MEASURES:
        expected = (rows.double() @ query.direction.double()) * weight(scales, measure) * query.norm
        assert exact_scores(index, query, chosen, measure) == pytest.approx(expected[chosen].tolist(), rel=1e-12)
        [found] = search(index, [query], [measure])
        for end in found[measure]:
            assert exact_scores(index, query, end.rows, measure) == end.scores
    assert exact_scores(index, query, [], Measure.INFLUENCE) == []


@pytest.mark.parametrize("batch", [1, 5])
def test_the_products_are_those_of_faiss(tmp_path: Path, batch: int) -> None:
    rows = random_rows(5000, 40)
    index = build(tmp_path, rows, random_scales(5000))
    directions = unit(random_rows(batch, 40, 9).float())
    by_faiss = faiss.read_index(str(tmp_path / "rows.faiss"))
    scores, places = by_faiss.search(functional.pad(directions, (0, by_faiss.d - 40)).numpy(), len(rows))
    expected = torch.empty(scores.shape).scatter_(1, torch.from_numpy(places), torch.from_numpy(scores))
    torch.testing.assert_close(index.products(directions), expected, rtol=0, atol=HALF_ERROR)


@pytest.mark.parametrize("batch", [1, 2, 32])
@pytest.mark.parametrize("kind", ["random", "parallel", "constant", "sparse", "alternating"])
@pytest.mark.parametrize("size", [16, 100, 768, 1024])
def test_the_product_keeps_its_error_bound(tmp_path: Path, size: int, kind: str, batch: int) -> None:
    """Also where all terms have one sign, the worst case of accumulation in half precision."""
    query = unit(random_rows(batch, size, 3).float())
    if kind == "constant":
        query = torch.full((batch, size), size**-0.5)
    if kind == "alternating":
        query = torch.full((batch, size), size**-0.5) * torch.tensor([1.0, -1.0]).repeat(size // 2)
    near = unit(query[torch.arange(64) % batch] + 1e-3 * random_rows(64, size, 4).float())
    rows = {"random": random_rows(64, size), "sparse": torch.eye(64, size).half()}.get(kind, near.half())
    exact = query.double() @ rows.double().T
    index = build(tmp_path, rows, constant_scales(torch.ones(64, dtype=torch.float64)))
    assert float((index.products(query).double() - exact).abs().max()) <= index.product_error(batch)
    assert float((index.products(query, precise=True).double() - exact).abs().max()) <= SINGLE_ERROR


def test_rows_are_padded_and_read_back_as_written(tmp_path: Path) -> None:
    rows = random_rows(50, 19)
    index = build(tmp_path, rows, random_scales(50))
    assert (padded(19), padded(16), index.size, len(index)) == (32, 16, 19, 50)
    assert torch.equal(index.unit_rows([49, 0, 3]), rows[[49, 0, 3]].float())
    assert (tmp_path / "rows.faiss").stat().st_size == pytest.approx(50 * 32 * 2, abs=400)


def test_rows_are_mapped_not_read(tmp_path: Path) -> None:
    index = build(tmp_path, random_rows(50, 16), random_scales(50))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps here to look at")
    ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith("rows.faiss")]
    address = index._rows.codes.data_ptr()
    assert any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


def test_the_container_is_a_plain_faiss_index(tmp_path: Path) -> None:
    rows = random_rows(50, 16)
    build(tmp_path, rows, random_scales(50))
    read = faiss.read_index(str(tmp_path / "rows.faiss"))
    np.testing.assert_array_equal(read.reconstruct_n(0, 50), rows.float().numpy())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, allow_infinity=False), max_size=20))
def test_scales_read_back_bit_by_bit(values: list[float]) -> None:
    scales = constant_scales(torch.tensor(values, dtype=torch.float64))
    with tempfile.TemporaryDirectory() as directory:
        write_scales(Path(directory) / "s", scales)
        found = read_scales(Path(directory) / "s")
    assert all(torch.equal(value, getattr(found, name)) for name, value in vars(scales).items())


def test_weighted_sums_are_those_of_float64(tmp_path: Path) -> None:
    rows = random_rows(4500, 24)
    index = build(tmp_path, rows, random_scales(4500))
    weights = torch.randn(4500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights[2048:4096] = 0
    wide = rows.double()
    torch.testing.assert_close(index.weighted_sum(weights), weights @ wide, rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_fit_the_manifest_or_the_scales_are_refused(tmp_path: Path) -> None:
    build(tmp_path, random_rows(50, 16), random_scales(50))
    with pytest.raises(CorruptBundleError, match=r"rows have 50 x 16 numbers, expected 50 x 32: .*rows\.faiss"):
        InfluenceIndex.open(tmp_path / "rows.faiss", tmp_path / "scales.safetensors", 17)
    write_scales(tmp_path / "scales.safetensors", random_scales(49))
    with pytest.raises(CorruptBundleError, match="rows have 50 x 16 numbers, expected 49 x 16"):
        InfluenceIndex.open(tmp_path / "rows.faiss", tmp_path / "scales.safetensors", 16)


@pytest.mark.parametrize("content", [None, b"", b"IxSQ", bytes(500)])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    build(tmp_path, random_rows(5, 16), random_scales(5))
    for name in ("rows.faiss", "scales.safetensors"):
        path = tmp_path / name
        kept = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(CorruptBundleError, match=f"cannot be read: {path}") as caught:
            InfluenceIndex.open(tmp_path / "rows.faiss", tmp_path / "scales.safetensors", 16)
        assert caught.value.field == name
        path.write_bytes(kept)


def test_another_kind_of_index_is_refused(tmp_path: Path) -> None:
    build(tmp_path, random_rows(5, 16), random_scales(5))
    other = faiss.IndexFlatIP(16)
    other.add(random_rows(5, 16).float().numpy())
    faiss.write_index(other, str(tmp_path / "rows.faiss"))
    with pytest.raises(CorruptBundleError, match=r"rows\.faiss"):
        InfluenceIndex.open(tmp_path / "rows.faiss", tmp_path / "scales.safetensors", 16)


@pytest.mark.parametrize("measure", Measure)
def test_lists_of_one_measure_are_those_of_all_three(tmp_path: Path, measure: Measure) -> None:
    index, queries = build(tmp_path, random_rows(3000, 24), random_scales(3000)), queries_of(3, 24, 12)
    alone, together = (search(index, queries, measures) for measures in ((measure,), tuple(Measure)))
    assert [found[measure] for found in alone] == [found[measure] for found in together]
