"""Selection by block maxima must find exactly what a full sort finds."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proponent.index.selection import BLOCK, EndBounds, largest, strongest_ends


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


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40 * BLOCK), st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_both_ends_are_the_strongest_bounds(rows: int, length: int, count: int, seed: int, filtered: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    products = torch.randn(rows, length, generator=generator)
    weights = torch.exp(3 * torch.randn(2, length, generator=generator))
    allowed = (torch.rand(rows, length, generator=generator) < 0.5).float() if filtered else None
    count = min(count, length)
    bounds, places = strongest_ends(EndBounds(products, weights, 0.01, allowed), count)
    assert bounds.shape == places.shape == (rows, 4, count)
    for e, (weight, sign) in enumerate((w, s) for w in weights for s in (1, -1)):
        expected = (sign * products + 0.01) * (1 if allowed is None else allowed) * weight
        assert torch.equal(bounds[:, e], expected.topk(count, dim=1).values)
        assert torch.equal(expected.gather(1, places[:, e]), bounds[:, e])
        assert all(len(set(row.tolist())) == count for row in places[:, e])
