"""The scan: one pass over the rows gives three measures and both ends for a batch of queries.

The product only finds candidates, by upper bounds of their scores; these are computed again from the stored fp16
rows with float64 accumulation. Ties are broken by row number. Where a row outside the candidates could still
belong into a list, more of them are looked at, so that every list is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proponent.errors import CorruptBundleError
from proponent.index.bundle import ROWS
from proponent.index.row_store import HALF_ERROR
from proponent.index.rows import InfluenceIndex
from proponent.index.selection import SIGNS, EndBounds, strongest_ends
from proponent.options import Measure

SPARE, COARSE_SPARE, SPARE_SHARE = 2, 22, 32
"""Candidates beyond k, so that a look past the end of a list is rarely needed: more where products are coarse, and
one more for every 32 of a longer list, whose last scores lie closer together."""

CHECKED = 64
"""Rows that are looked at where an answer is empty."""

End = tuple[Measure, float]
Numbers = NDArray[np.float64]
"""What is ranked: some hundred numbers, on which an operation of numpy takes a fifth of the time of torch's."""
Places = NDArray[np.int64]


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


@dataclass(frozen=True)
class Scan:
    """Candidates of a batch at E ends on the device, where they may still be computed; reading them waits for that.

    Attributes:
        products: [B, N] float32, with an error of at most ``error``.
        rows: Candidates, ascending, [B, E, c] int64.
        exact: Their products, [B, E, c] float64.
        beyond: Bound on the scores of all other rows for a query of norm 1, [B, E]; None where there are none.
        measures: Two ends of each.
    """

    products: Tensor
    error: float
    rows: Tensor
    exact: Tensor
    beyond: Tensor | None
    measures: Sequence[Measure]


def search(
    index: InfluenceIndex, queries: Sequence[Query], measures: Sequence[Measure]
) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
    """For each query and measure the proponents (scores > 0) and the opponents (scores < 0)."""
    directions = torch.stack([query.direction for query in queries])
    found = scan(index, directions, [query.k for query in queries], [query.eligible for query in queries], measures)
    return lists(index, found, dict(enumerate(queries)))


def scan(
    index: InfluenceIndex,
    directions: Tensor,
    lengths: Sequence[int],
    eligible: Sequence[Tensor | None],
    measures: Sequence[Measure],
) -> Scan:
    """Candidates for the lists of some queries, of which neither norms nor directions [B, K] have been read."""
    allowed = _allowed(index, eligible)
    products = index.products(directions)
    error = index.product_error(len(directions))
    spare = COARSE_SPARE if error >= HALF_ERROR else SPARE
    count = min(max(lengths) + spare + max(lengths) // SPARE_SHARE, len(index))
    bounds, candidates = strongest_ends(EndBounds(products, index.scanned_scales(measures), error, allowed), count)
    rows = candidates.sort(dim=2).values
    beyond = bounds[..., -1] if count < len(index) else None
    return Scan(products, error, rows, _exact_products(index, directions, rows), beyond, measures)


def lists(
    index: InfluenceIndex, found: Scan, queries: Mapping[int, Query]
) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
    """Reads a scan: the lists of some of its queries, given by their places in the batch."""
    ends = [(measure, sign) for measure in found.measures for sign in SIGNS]
    places, asked = list(queries), list(queries.values())
    rows, exact = found.rows.cpu().numpy()[places], found.exact.cpu().numpy()[places]
    ranked = _ranked(index, asked, rows, exact, ends)
    beyond = np.full(rows.shape[:2], -inf) if found.beyond is None else found.beyond.cpu().double().numpy()[places]
    firsts = _firsts(ranked, asked, ends, beyond)
    hits = [
        [
            first or _widened(index, query, found.products[b], found.error, end, rows.shape[2])
            for end, first in zip(ends, of, strict=True)
        ]
        for (b, query), of in zip(queries.items(), firsts, strict=True)
    ]
    _check(index, asked, hits)
    return [dict(zip(found.measures, zip(of[::2], of[1::2], strict=True), strict=True)) for of in hits]


def exact_scores(index: InfluenceIndex, query: Query, rows: Sequence[int], measure: Measure) -> list[float]:
    """Scores of named rows, as a search would give them."""
    chosen = torch.as_tensor(rows, dtype=torch.long)
    exact = index.exact_products(query.direction[None], torch.zeros_like(chosen), chosen).cpu()
    scores: list[float] = (exact * index.exact_scales[measure][chosen] * query.norm).tolist()
    return scores


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


def _allowed(index: InfluenceIndex, eligible: Sequence[Tensor | None]) -> Tensor | None:
    """1 where a row may appear, [B, N] float32; None where nothing is filtered."""
    if all(mask is None for mask in eligible):
        return None
    everything = torch.ones(len(index), dtype=torch.bool)
    masks = torch.stack([everything if mask is None else mask for mask in eligible])
    return masks.to(index.device, non_blocking=True).float()


@dataclass(frozen=True)
class _Ranked:
    """Candidates of B queries at E ends, strongest first.

    Attributes:
        scores: Exact ones times the sign of the end, [B, E, c]; 0 for rows that may not appear.
        rows: [B, E, c].
    """

    scores: Numbers
    rows: Places


def _ranked(
    index: InfluenceIndex, queries: Sequence[Query], rows: Places, exact: Numbers, ends: Sequence[End]
) -> _Ranked:
    """Ranks candidates [B, E, c] by their exact scores, from their exact products of the same shape."""
    scales = index.scales_at([measure for measure, _ in ends], rows)
    if not np.isfinite(exact).all():
        raise CorruptBundleError("rows hold numbers that are not finite: they were overwritten", field=ROWS)
    scores = exact * scales * np.array([query.norm for query in queries])[:, None, None]
    scores *= np.array([sign for _, sign in ends])[:, None]
    for b, query in enumerate(queries):
        if query.eligible is not None:
            scores[b] *= query.eligible.numpy()[rows[b]]
    order = np.argsort(-scores, axis=2, kind="stable")
    return _Ranked(np.take_along_axis(scores, order, 2), np.take_along_axis(rows, order, 2))


def _exact_products(index: InfluenceIndex, directions: Tensor, rows: Tensor) -> Tensor:
    """Of each query with its own rows [B, E, c] on the device; on a processor once for rows of several ends."""
    owners = torch.arange(len(directions), device=rows.device)[:, None, None]
    if index.device.type != "cpu":
        # To find what the ends share would wait for the device, for which a few more products are nothing.
        return index.exact_products(directions, owners.expand_as(rows).flatten(), rows.flatten()).view_as(rows)
    pairs, places = torch.unique(rows + owners * len(index), return_inverse=True)
    return index.exact_products(directions, pairs // len(index), pairs % len(index))[places]


def _firsts(
    ranked: _Ranked, queries: Sequence[Query], ends: Sequence[End], beyond: Numbers
) -> list[list[Hits | None]]:
    """The first k of each ranking; None where a row outside it, of bound ``beyond`` [B, E], may belong to them."""
    wanted = np.array([query.k for query in queries])[:, None]
    norms = np.array([query.norm for query in queries])[:, None]
    kept = np.minimum((ranked.scores > 0).sum(axis=2), wanted)
    is_full = (kept == wanted) & (wanted > 0)
    last = np.take_along_axis(ranked.scores, np.maximum(kept - 1, 0)[..., None], 2)[..., 0]
    weakest = np.where(is_full, last, 0.0) / np.where(norms > 0, norms, 1.0)
    doubtful = (beyond > 0) & (norms > 0) & (weakest <= beyond)
    signed = ranked.scores * np.array([sign for _, sign in ends])[:, None]
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
        rows = candidates.sort().values[None, None]
        exact = _exact_products(index, query.direction[None].to(index.device), rows)
        ranked = _ranked(index, [query], rows.cpu().numpy(), exact.cpu().numpy(), [end])
        beyond = np.array([[float(values[-1]) if count < len(index) else -inf]])
        [[hits]] = _firsts(ranked, [query], [end], beyond)
        if hits is not None:
            return hits
