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
    ranked = _ranked(index, queries, candidates.cpu(), ends)
    beyond = bounds[..., -1].cpu() if count < len(index) else torch.full(bounds.shape[:-1], -inf)
    firsts = _firsts(ranked, queries, ends, beyond)
    lists = [
        [
            hits or _widened(index, query, products[b], error, end, count)
            for end, hits in zip(ends, firsts[b], strict=True)
        ]
        for b, query in enumerate(queries)
    ]
    _check(index, queries, lists)
    return [dict(zip(measures, zip(of[::2], of[1::2], strict=True), strict=True)) for of in lists]


def exact_scores(index: InfluenceIndex, query: Query, rows: Sequence[int], measure: Measure) -> list[float]:
    """Scores of named rows, as a search would give them."""
    chosen = torch.as_tensor(rows, dtype=torch.long)
    exact = index.exact_products(query.direction, chosen)
    return (exact * index.exact_scales[measure][chosen] * query.norm).tolist()


def _check(index: InfluenceIndex, queries: Sequence[Query], lists: Sequence[Sequence[Hits]]) -> None:
    """Raises where the rows behind an answer cannot be those that were written: its leaders or, without any, some.

    No list at all is legitimate where every row that may appear is orthogonal to the query, or has no direction.
    """
    leaders: set[int] = set()
    for query, of in zip(queries, lists, strict=True):
        own = {hits.rows[0] for hits in of if hits.rows}
        if not own:
            able = index.scales.has_direction
            able = able if query.eligible is None else able & query.eligible
            own = set(able.nonzero().flatten()[:CHECKED].tolist())
        leaders |= own
    index.check_rows(sorted(leaders))


def _allowed(index: InfluenceIndex, queries: Sequence[Query]) -> Tensor | None:
    """1 where a row may appear, [B, N] float32; None where nothing is filtered."""
    if all(query.eligible is None for query in queries):
        return None
    everything = torch.ones(len(index), dtype=torch.bool)
    masks = [everything if query.eligible is None else query.eligible for query in queries]
    return torch.stack(masks).to(index.device, torch.float32)


@dataclass(frozen=True)
class _Ranked:
    """Candidates of B queries at E ends, strongest first.

    Attributes:
        scores: Exact ones times the sign of the end, [B, E, c] float64; 0 for rows that may not appear.
        rows: [B, E, c] int64.
    """

    scores: Tensor
    rows: Tensor


def _ranked(index: InfluenceIndex, queries: Sequence[Query], candidates: Tensor, ends: Sequence[End]) -> _Ranked:
    """Ranks candidates [B, E, c] by their exact scores."""
    rows = candidates.sort(dim=2).values
    scales = torch.stack([index.exact_scales[measure][rows[:, e]] for e, (measure, _) in enumerate(ends)], dim=1)
    scores = _exact_products(index, queries, rows)
    if not bool(torch.isfinite(scores).all()):
        raise CorruptBundleError("rows hold numbers that are not finite: they were overwritten", field=ROWS)
    scores = scores * scales * torch.tensor([query.norm for query in queries], dtype=torch.float64)[:, None, None]
    scores *= torch.tensor([sign for _, sign in ends], dtype=torch.float64)[:, None]
    for b, query in enumerate(queries):
        if query.eligible is not None:
            scores[b] *= query.eligible[rows[b]]
    order = scores.argsort(dim=2, descending=True, stable=True)
    return _Ranked(scores.gather(2, order), rows.gather(2, order))


def _exact_products(index: InfluenceIndex, queries: Sequence[Query], rows: Tensor) -> Tensor:
    """Of each query with its own rows [B, E, c]; a row that is a candidate of several ends is multiplied once."""
    owner = torch.arange(len(queries))[:, None, None]
    pairs, places = torch.unique(rows + owner * len(index), return_inverse=True)
    counts = torch.bincount(pairs // len(index), minlength=len(queries)).tolist()
    parts = zip(queries, (pairs % len(index)).split(counts), strict=True)
    return torch.cat([index.exact_products(query.direction, own) for query, own in parts])[places]


def _firsts(
    ranked: _Ranked, queries: Sequence[Query], ends: Sequence[End], beyond: Tensor
) -> list[list[Hits | None]]:
    """The first k of each ranking; None where a row outside it, of bound ``beyond`` [B, E], may belong to them."""
    wanted = torch.tensor([query.k for query in queries])[:, None]
    norms = torch.tensor([query.norm for query in queries], dtype=torch.float64)[:, None]
    kept = (ranked.scores > 0).sum(dim=2).clamp(max=wanted)
    is_full = (kept == wanted) & (wanted > 0)
    last = ranked.scores.gather(2, (kept - 1).clamp(min=0)[..., None])[..., 0]
    weakest = torch.where(is_full, last, 0.0) / torch.where(norms > 0, norms, 1.0)
    doubtful = (beyond > 0) & (norms > 0) & (weakest <= beyond)
    signed = ranked.scores * torch.tensor([sign for _, sign in ends], dtype=torch.float64)[:, None]
    rows, scores, lengths = ranked.rows.tolist(), signed.tolist(), kept.tolist()
    return [
        [
            None if doubt else Hits(rows[b][e][:n], scores[b][e][:n])
            for e, (n, doubt) in enumerate(zip(*of, strict=True))
        ]
        for b, of in enumerate(zip(lengths, doubtful.tolist(), strict=True))
    ]


def _widened(index: InfluenceIndex, query: Query, products: Tensor, error: float, end: End, count: int) -> Hits:
    """The same from ever more candidates: near-ties at the end of the list, or scales beyond float32."""
    measure, sign = end
    bounds = torch.add(error, products, alpha=sign) * index.scanned_scales([measure])[0]
    if query.eligible is not None:
        bounds *= query.eligible.to(bounds)
    while True:
        count = min(4 * count, len(index))
        values, candidates = bounds.topk(count)
        ranked = _ranked(index, [query], candidates.cpu()[None, None], [end])
        beyond = values[None, -1:].cpu() if count < len(index) else torch.full((1, 1), -inf)
        [[hits]] = _firsts(ranked, [query], [end], beyond)
        if hits is not None:
            return hits
