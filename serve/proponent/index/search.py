"""The search: candidates of one pass over the rows become the lists of three measures and both ends, exactly.

The pass only finds candidates, by upper bounds of their scores; these are computed again from the stored fp16
rows with float64 accumulation. Ties are broken by row number. Where a row outside the candidates could still
belong into a list, more of them are looked at, so that every list is exact, wherever the rows lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from proponent.errors import CorruptBundleError
from proponent.index.bundle import ROWS
from proponent.index.scan import End, Numbers, PendingScan, Places, Query
from proponent.index.searchable import SearchableRows
from proponent.index.selection import SIGNS
from proponent.options import Measure

CHECKED = 64
"""Rows that are looked at where an answer is empty."""


@dataclass(frozen=True)
class Hits:
    """The strongest rows of one end of one measure, strongest first."""

    rows: list[int]
    scores: list[float]


def search(
    index: SearchableRows, queries: Sequence[Query], measures: Sequence[Measure]
) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
    """For each query and measure the proponents (scores > 0) and the opponents (scores < 0)."""
    directions = torch.stack([query.direction for query in queries])
    found = index.scan(directions, [query.k for query in queries], [query.eligible for query in queries], measures)
    return lists(index, found, dict(enumerate(queries)))


def lists(
    index: SearchableRows, found: PendingScan, queries: Mapping[int, Query]
) -> list[Mapping[Measure, tuple[Hits, Hits]]]:
    """Reads a scan: the lists of some of its queries, given by their places in the batch."""
    ends = [(measure, sign) for measure in found.measures for sign in SIGNS]
    places, asked, candidates = list(queries), list(queries.values()), found.read()
    rows = candidates.rows[places]
    ranked = _ranked(index, asked, rows, candidates.exact[places], ends)
    firsts = _firsts(ranked, asked, ends, candidates.beyond[places])
    hits = [
        [first or _widened(index, found, b, query, end, rows.shape[2]) for end, first in zip(ends, of, strict=True)]
        for (b, query), of in zip(queries.items(), firsts, strict=True)
    ]
    _check(index, asked, hits)
    return [dict(zip(found.measures, zip(of[::2], of[1::2], strict=True), strict=True)) for of in hits]


def exact_scores(index: SearchableRows, query: Query, rows: Sequence[int], measure: Measure) -> list[float]:
    """Scores of named rows, as a search would give them."""
    chosen = torch.as_tensor(rows, dtype=torch.long)
    exact = index.exact_products(query.direction[None], torch.zeros_like(chosen), chosen).cpu()
    scales = torch.from_numpy(index.scales_at([measure], chosen.numpy()[None, None])[0, 0])
    scores: list[float] = (exact * scales * query.norm).tolist()
    return scores


def _check(index: SearchableRows, queries: Sequence[Query], lists: Sequence[Sequence[Hits]]) -> None:
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
    index: SearchableRows, queries: Sequence[Query], rows: Places, exact: Numbers, ends: Sequence[End]
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


def _widened(index: SearchableRows, found: PendingScan, place: int, query: Query, end: End, count: int) -> Hits:
    """The same from ever more candidates: near-ties at the end of the list, or scales beyond float32."""
    while True:
        count = min(4 * count, len(index))
        more = found.more(place, query, end, count)
        ranked = _ranked(index, [query], more.rows, more.exact, [end])
        [[hits]] = _firsts(ranked, [query], [end], more.beyond)
        if hits is not None:
            return hits
