"""The scan: one pass over the rows gives three measures and both ends for a batch of queries.

The product only finds candidates, by upper bounds of their scores; these are computed again from the stored fp16
rows with float64 accumulation. Ties are broken by row number. Where a row outside the candidates could still
belong into a list, more of them are looked at, so that every list is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from proponent.errors import CorruptBundleError
from proponent.index.bundle import ROWS
from proponent.index.row_store import HALF_ERROR
from proponent.index.rows import InfluenceIndex
from proponent.index.selection import SIGNS, EndBounds, strongest_ends
from proponent.options import Measure

SPARE, COARSE_SPARE = 6, 22
"""Candidates beyond k, so that a look past the end of a list is rarely needed; more where products are coarse."""

CHECKED = 64
"""Rows that are looked at where an answer is empty."""

End = tuple[Measure, float]


@dataclass(frozen=True)
class Hits:
    """The strongest rows of one end of one measure, strongest first."""

    rows: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Query:
    """One query of a batch.

    Attributes:
        direction: phi / ||phi||, [K] float32.
        norm: ||phi||, a Python float (may be tiny).
        k: Length of each list.
        eligible: [N] bool, or None for all rows.
    """

    direction: Tensor
    norm: float
    k: int
    eligible: Tensor | None = None


def search(
    index: InfluenceIndex, queries: Sequence[Query], measures: Sequence[Measure]
) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
    """For each query and measure the proponents (scores > 0) and the opponents (scores < 0)."""
    products = index.products(torch.stack([query.direction for query in queries]))
    error = index.product_error(len(queries))
    spare = COARSE_SPARE if error >= HALF_ERROR else SPARE
    count = min(max(query.k for query in queries) + spare, len(index))
    ends_bounds = EndBounds(products, index.scanned_scales(measures), error, _allowed(index, queries))
    bounds, candidates = strongest_ends(ends_bounds, count)
    ends = [(measure, sign) for measure in measures for sign in SIGNS]
    scores, rows = _ranked(index, queries, candidates.cpu(), ends)
    beyond = bounds[..., -1].tolist() if count < len(index) else [[-inf] * len(ends)] * len(queries)
    found: list[Mapping[Measure, tuple[Hits, Hits]]] = []
    for b, query in enumerate(queries):
        lists = {
            end: _first(query, end, scores[b][e], rows[b][e], beyond[b][e])
            or _widened(index, query, products[b], error, end, count)
            for e, end in enumerate(ends)
        }
        _check(index, query, list(lists.values()))
        found.append({measure: (lists[measure, SIGNS[0]], lists[measure, SIGNS[1]]) for measure in measures})
    return found


def exact_scores(index: InfluenceIndex, query: Query, rows: Sequence[int], measure: Measure) -> list[float]:
    """Scores of named rows, as a search would give them."""
    chosen = torch.as_tensor(rows, dtype=torch.long)
    exact = index.exact_products(query.direction, chosen)
    return (exact * index.exact_scales[measure][chosen] * query.norm).tolist()


def _check(index: InfluenceIndex, query: Query, lists: Sequence[Hits]) -> None:
    """Raises where the rows behind an answer cannot be those that were written: its leaders or, without any, some.

    No list at all is legitimate where every row that may appear is orthogonal to the query, or has no direction.
    """
    leaders = [hits.rows[0] for hits in lists if hits.rows]
    if not leaders:
        able = index.scales.has_direction if query.eligible is None else index.scales.has_direction & query.eligible
        leaders = able.nonzero().flatten()[:CHECKED].tolist()
    index.check_rows(leaders)


def _allowed(index: InfluenceIndex, queries: Sequence[Query]) -> Tensor | None:
    """1 where a row may appear, [B, N] float32; None where nothing is filtered."""
    if all(query.eligible is None for query in queries):
        return None
    everything = torch.ones(len(index), dtype=torch.bool)
    masks = [everything if query.eligible is None else query.eligible for query in queries]
    return torch.stack(masks).to(index.device, torch.float32)


def _ranked(
    index: InfluenceIndex, queries: Sequence[Query], candidates: Tensor, ends: Sequence[End]
) -> tuple[list[list[list[float]]], list[list[list[int]]]]:
    """Exact scores of candidates [B, E, c] times the sign of their end, strongest first, and their rows.

    Rows that may not appear score 0.
    """
    rows = candidates.sort(dim=2).values
    scales = torch.stack([index.exact_scales[measure][rows[:, e]] for e, (measure, _) in enumerate(ends)], dim=1)
    scores = torch.stack(
        [index.exact_products(query.direction, rows[b].flatten()) for b, query in enumerate(queries)]
    ).view(rows.shape)
    if not bool(torch.isfinite(scores).all()):
        raise CorruptBundleError("rows hold numbers that are not finite: they were overwritten", field=ROWS)
    scores = scores * scales * torch.tensor([query.norm for query in queries], dtype=torch.float64)[:, None, None]
    scores *= torch.tensor([sign for _, sign in ends], dtype=torch.float64)[:, None]
    for b, query in enumerate(queries):
        if query.eligible is not None:
            scores[b] *= query.eligible[rows[b]]
    order = scores.argsort(dim=2, descending=True, stable=True)
    return scores.gather(2, order).tolist(), rows.gather(2, order).tolist()


def _first(query: Query, end: End, scores: list[float], rows: list[int], beyond: float) -> Hits | None:
    """The first k of a ranking, or None where a row outside it, of bound ``beyond``, may belong to them."""
    kept = [score for score in scores[: query.k] if score > 0]
    is_full = query.k > 0 and len(kept) == query.k
    weakest = kept[-1] if is_full else 0.0
    scores_anything = beyond > 0 and query.norm > 0
    if scores_anything and weakest / query.norm <= beyond:
        return None
    return Hits(rows[: len(kept)], [end[1] * score for score in kept])


def _widened(index: InfluenceIndex, query: Query, products: Tensor, error: float, end: End, count: int) -> Hits:
    """The same from ever more candidates: near-ties at the end of the list, or scales beyond float32."""
    measure, sign = end
    bounds = torch.add(error, products, alpha=sign) * index.scanned_scales([measure])[0]
    if query.eligible is not None:
        bounds *= query.eligible.to(bounds)
    while True:
        count = min(4 * count, len(index))
        values, candidates = bounds.topk(count)
        scores, rows = _ranked(index, [query], candidates.cpu()[None, None], [end])
        beyond = float(values[-1]) if count < len(index) else -inf
        hits = _first(query, end, scores[0][0], rows[0][0], beyond)
        if hits is not None:
            return hits
