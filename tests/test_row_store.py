"""Rows that do not fit a device are streamed to it, with the same lists; its arithmetic keeps its bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.errors import UnavailableError
from proponent.index import row_store
from proponent.index.row_store import (
    ROW_OVERHEAD,
    SINGLE_ERROR,
    ResidentRows,
    StreamedRows,
    joined,
    place_rows,
    split,
)
from proponent.index.rows import InfluenceIndex
from proponent.index.search import search
from proponent.options import Measure
from test_rows import build, queries_of, random_rows, random_scales, unit

CPU = torch.device("cpu")
COUNT, SIZE, ROW = 3000, 40, 2 * 48
"""The third is a row's bytes, padded."""


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("room", [2, 700, 2000])
def test_a_budget_that_forces_streaming_gives_the_same_lists_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, batch: int
) -> None:
    """Room is that for rows beside all scales and products; two buffers of at most 300 rows are part of it."""
    monkeypatch.setattr(row_store, "BUFFER_BYTES", 300 * ROW)
    whole = build(tmp_path, random_rows(COUNT, SIZE), random_scales(COUNT))
    files = tmp_path / "rows.faiss", tmp_path / "scales.safetensors"
    streamed = InfluenceIndex.open(*files, SIZE, CPU, budget=COUNT * ROW_OVERHEAD + room * ROW)
    assert isinstance(whole._rows, ResidentRows)
    assert isinstance(streamed._rows, StreamedRows)
    queries = queries_of(batch, SIZE, 12)
    assert search(streamed, queries, tuple(Measure)) == search(whole, queries, tuple(Measure))
    chosen = torch.tensor([2999, 0, 1999, 1000])
    assert torch.equal(streamed.unit_rows(chosen), whole.unit_rows(chosen))
    weights = torch.rand(COUNT)
    assert torch.equal(streamed.weighted_sum(weights), whole.weighted_sum(weights))


@pytest.mark.parametrize("held", [0, 1, 100, 251])
@pytest.mark.parametrize("buffer_rows", [1, 7, 100, 1000])
def test_every_row_is_multiplied_once_in_its_place(held: int, buffer_rows: int) -> None:
    rows = random_rows(251, 16)
    queries = unit(random_rows(2, 16, seed=3).float())
    streamed = StreamedRows(rows, ResidentRows(rows[:held]), buffer_rows * 2 * 16)
    torch.testing.assert_close(streamed.products(queries), queries @ rows.float().T, rtol=0, atol=1e-6)


def test_what_fits_stays_and_what_does_not_is_split() -> None:
    rows = random_rows(COUNT, 48)
    everything = COUNT * (ROW_OVERHEAD + ROW)
    assert isinstance(place_rows(rows, CPU), ResidentRows)
    assert isinstance(place_rows(rows, CPU, everything), ResidentRows)
    split_rows = place_rows(rows, CPU, everything - 1)
    assert isinstance(split_rows, StreamedRows)
    assert 0 < len(split_rows._held) < COUNT == len(split_rows)
    assert torch.equal(split_rows.take(torch.arange(COUNT)), rows)


def test_too_little_for_scales_and_products_is_a_clear_error() -> None:
    rows = random_rows(COUNT, 48)
    least = COUNT * ROW_OVERHEAD + 2 * ROW
    assert isinstance(place_rows(rows, CPU, least), StreamedRows)
    with pytest.raises(
        UnavailableError, match=f"3,000 rows need {least:,} bytes of cpu .* at most {least - 1:,}"
    ) as e:
        place_rows(rows, CPU, least - 1)
    assert e.value.reason == "DEVICE_MEMORY"


@given(seed=st.integers(0, 10**6), size=st.integers(1, 800), exponent=st.integers(-30, 0))
@settings(max_examples=40, deadline=None)
def test_a_query_in_two_halves_keeps_the_bound_of_single_precision(seed: int, size: int, exponent: int) -> None:
    """Products with fp16 rows, in float64: what the halves lose is all that is lost. Entries may be tiny."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, size, generator=generator) * torch.logspace(0, exponent, size)
    query = unit(query)
    rows = random_rows(20, size, seed)
    products = joined(split(query).double() @ rows.double().T)
    assert float((products - query.double() @ rows.double().T).abs().max()) <= SINGLE_ERROR / 100


def test_products_on_a_device_need_nothing_from_it(tmp_path: Path) -> None:
    """A meta tensor has no numbers: whoever asked it for one would fail. So nothing waits for a GPU here."""
    meta = torch.device("meta")
    rows = ResidentRows(torch.empty(5000, 48, dtype=torch.float16, device=meta))
    found = rows.products(torch.empty(3, 48, device=meta))
    assert (found.shape, found.dtype, found.device) == ((3, 5000), torch.float32, meta)
    assert rows.take(torch.empty(7, dtype=torch.long, device=meta)).shape == (7, 48)
