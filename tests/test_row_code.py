"""Rows coded in the basis of their group give what the vectors that they stand for would give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from proponent.errors import CorruptBundleError
from proponent.index.row_code import CodedRows, RowCode, read_code, write_code
from proponent.index.row_store import ROW_OVERHEAD, StreamedRows
from proponent.index.rows import InfluenceIndex, write_rows, write_scales
from proponent.index.search import search
from proponent.index.tensor_file import save_tensors
from proponent.options import Measure
from test_rows import queries_of, random_scales, unit

COUNT, WIDTH, SIZE, GROUPS = 700, 40, 12, 3
CPU = torch.device("cpu")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coded(seed: int = 0) -> tuple[Tensor, RowCode]:
    """Unit codes [N, K] float16 by row, and a code of which one group has no rows."""
    bases = torch.linalg.qr(drawn(GROUPS + 1, WIDTH, SIZE, seed=seed))[0].mT.contiguous()
    groups = torch.randint(GROUPS, (COUNT,), generator=torch.Generator().manual_seed(seed))
    return unit(drawn(COUNT, SIZE, seed=seed + 1)).half(), RowCode(bases, groups + (groups > 0).long())


def vectors(codes: Tensor, code: RowCode) -> Tensor:
    """What the rows stand for, [N, W] float64, one by one."""
    pairs = zip(codes.double(), code.groups.tolist(), strict=True)
    return torch.stack([row @ code.bases[group].double() for row, group in pairs])


def stored(
    directory: Path, codes: Tensor, code: RowCode, budget: int | None = None, device: torch.device = CPU
) -> InfluenceIndex:
    """Written as a rebuild does and opened."""
    write_rows(directory / "rows", [codes[code.order]], SIZE)
    write_scales(directory / "scales", random_scales(len(codes)))
    write_code(directory / "code", code)
    files = directory / "rows", directory / "scales"
    return InfluenceIndex.open(*files, SIZE, device, budget, read_code(directory / "code"))


@pytest.mark.parametrize("room", [None, 250])
@pytest.mark.parametrize("batch", [1, 3])
def test_lists_are_those_of_the_vectors_that_rows_stand_for(tmp_path: Path, room: int | None, batch: int) -> None:
    """Also where a third of the rows lies on the device and the others are streamed."""
    codes, code = coded()
    budget = None if room is None else COUNT * ROW_OVERHEAD + 32 * room
    index = stored(tmp_path, codes, code, budget)
    assert isinstance(index._rows, CodedRows)
    assert isinstance(index._rows._codes, StreamedRows) == (room is not None)
    assert (index.size, index.row_size, len(index)) == (WIDTH, SIZE, COUNT)
    queries, whole = queries_of(batch, WIDTH, 12), vectors(codes, code)
    for query, lists in zip(queries, search(index, queries, tuple(Measure)), strict=True):
        products = whole @ query.direction.double()
        for measure, ends in lists.items():
            scores = products * index.scales.of(measure) * query.norm
            for sign, hits in zip((1, -1), ends, strict=True):
                best = (sign * scores).topk(12)
                assert hits.rows == best.indices.tolist()
                assert hits.scores == pytest.approx((sign * best.values).tolist(), rel=1e-5)


def test_whatever_reads_rows_reads_vectors_in_the_training_set_s_order(tmp_path: Path) -> None:
    codes, code = coded()
    index, whole = stored(tmp_path, codes, code), vectors(codes, code)
    chosen = torch.tensor([699, 0, 311])
    torch.testing.assert_close(index.unit_rows(chosen).double(), whole[chosen], rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.cat([b for _, b in index.blocks()]).double(), whole, rtol=0, atol=1e-6)
    weights = torch.rand(COUNT, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(index.weighted_sum(weights), weights.double() @ whole, rtol=0, atol=1e-4)
    index.check_rows(range(COUNT))
    direction = unit(drawn(1, WIDTH, seed=9))[0]
    everything, first = torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64)
    exact = index.exact_products(direction[None], first, everything)
    torch.testing.assert_close(exact, whole @ direction.double(), rtol=0, atol=1e-6)
    assert torch.equal(index.exact_products(direction[None], first[:3], chosen), exact[chosen])
    beside = torch.stack([drawn(WIDTH, seed=11), direction, drawn(WIDTH, seed=12)])
    owners = everything % 3
    found = index.exact_products(beside, owners, everything)
    assert torch.equal(found[owners == 1], exact[owners == 1])
    torch.testing.assert_close(found, (beside.double()[owners] * whole).sum(dim=1), rtol=0, atol=1e-5)
    queries = unit(drawn(2, WIDTH, seed=10))
    products = index._rows.products(queries, slice(100, 300))
    torch.testing.assert_close(products.double(), queries.double() @ whole[100:300].mT, rtol=0, atol=5e-5)


def test_a_container_without_some_rows_holds_the_others_as_they_were(tmp_path: Path) -> None:
    codes, code = coded()
    index = stored(tmp_path, codes, code)
    keep = torch.arange(COUNT) % 5 != 0
    index.write_without(tmp_path / "fewer", keep)
    write_scales(tmp_path / "fewer-scales", random_scales(int(keep.sum())))
    fewer = index.code_without(keep)
    assert fewer is not None and torch.equal(fewer.bases, code.bases)
    again = InfluenceIndex.open(tmp_path / "fewer", tmp_path / "fewer-scales", SIZE, code=fewer)
    assert torch.equal(again.unit_rows(range(len(again))), index.unit_rows(keep.nonzero().flatten()))


@pytest.mark.parametrize("left", [0, 1, SIZE - 1])
def test_a_basis_with_fewer_rows_left_than_directions_tells_nothing_of_those_that_went(
    tmp_path: Path, left: int
) -> None:
    """With as many directions as rows they are those of the rows: a class of one example is that example's vector."""
    codes, code = coded()
    index, whole = stored(tmp_path, codes, code), vectors(codes, code)
    members = (code.groups == 2).nonzero().flatten()
    keep = torch.ones(COUNT, dtype=torch.bool)
    keep[members[left:]] = False
    fewer = index.code_without(keep)
    assert fewer is not None and torch.equal(fewer.groups, code.groups[keep])
    others = torch.arange(len(code.bases)) != 2
    assert torch.equal(fewer.bases[others], code.bases[others])
    kept = torch.linalg.qr(whole[members[:left]].mT)[0]
    outside = fewer.bases[2].double() - fewer.bases[2].double() @ kept @ kept.mT
    assert float(outside.norm()) < 1e-5
    torch.testing.assert_close(vectors(codes[keep], fewer), whole[keep], rtol=0, atol=1e-6)


def test_a_code_that_does_not_fit_its_rows_is_damage(tmp_path: Path) -> None:
    codes, code = coded()
    stored(tmp_path, codes, code)
    files = tmp_path / "rows", tmp_path / "scales"
    with pytest.raises(CorruptBundleError, match="700 rows have 12 numbers, their code expects 699 of 12"):
        InfluenceIndex.open(*files, SIZE, code=RowCode(code.bases, code.groups[1:]))
    save_tensors({"bases": code.bases}, tmp_path / "code")
    with pytest.raises(CorruptBundleError, match="code cannot be read"):
        read_code(tmp_path / "code")
    write_code(tmp_path / "code", RowCode(code.bases, code.groups + 2))
    with pytest.raises(CorruptBundleError, match="bases that are missing"):
        read_code(tmp_path / "code")
    with pytest.raises(CorruptBundleError, match="code cannot be read"):
        read_code(tmp_path / "none")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ({"bases": torch.zeros(())}, r"bases of torch.float32 and shape \[\], expected 3 dimensions"),
        ({"bases": torch.zeros(4, 12, 40).double()}, "bases of torch.float64"),
        ({"groups": torch.zeros(COUNT)}, "groups of torch.float32"),
        ({"groups": torch.zeros(COUNT, 1, dtype=torch.int64)}, r"groups of torch.int64 and shape \[700, 1\]"),
        ({"bases": torch.full((4, 12, 40), torch.nan)}, "not finite"),
    ],
)
def test_a_code_of_another_kind_is_damage(tmp_path: Path, damage: dict[str, Tensor], match: str) -> None:
    _, code = coded()
    save_tensors({"bases": code.bases, "groups": code.groups, **damage}, tmp_path / "code")
    with pytest.raises(CorruptBundleError, match=match) as caught:
        read_code(tmp_path / "code")
    assert caught.value.field == "code"
