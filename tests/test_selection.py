"""Selection by block maxima must find exactly what a full sort finds."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.index.selection import BLOCK, largest


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40 * BLOCK), st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_largest_equals_topk(rows: int, length: int, count: int, seed: int, many_ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, length, generator=generator)
    values = (2 * values).round() if many_ties else values
    count = min(count, length)
    found, places = largest(values, count)
    assert torch.equal(found, values.topk(count, dim=1).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row.tolist())) == count for row in places)
