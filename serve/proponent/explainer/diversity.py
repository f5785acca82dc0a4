"""Diverse selections from the candidates that the index found."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from proponent.attribution.divine import (
    Domain,
    PoolDomain,
    StreamedDomain,
    facility_location,
    mean_discrepancy,
    median_bandwidth,
    sum_redundancy,
)
from proponent.index.rows import InfluenceIndex
from proponent.index.search import Hits
from proponent.results import Diversity, Notice, NoticeCode, Redundancy

MAX_CANDIDATES = 5000
"""Largest pool: its kernel matrix takes 100 MB and half a second."""


def pool_size(diversity: Diversity | None, top_k: int) -> int:
    """Candidates to ask of each end."""
    return top_k if diversity is None else max(top_k, min(diversity.candidates, MAX_CANDIDATES))


def diversify(hits: Hits, diversity: Diversity, k: int, index: InfluenceIndex, alive: Tensor | None) -> Hits:
    """The DIVINE choice of k from one end, strongest first; with gamma = 0 the first k as they are.

    Args:
        hits: The pool, strongest first.
        diversity: What is asked.
        k: Length of the list.
        index: Where the unit rows are.
        alive: [N] bool, the rows that count as D where all of it is asked for; None for all.
    """
    if diversity.gamma == 0 or not hits.rows:
        return Hits(hits.rows[:k], hits.scores[:k])
    candidates = index.unit_rows(hits.rows)
    strengths = torch.tensor(hits.scores, dtype=torch.float64).abs()
    influences = (strengths / strengths.max()).to(candidates.device)
    chosen = sorted(_select(influences, candidates, diversity, k, index, alive))
    return Hits([hits.rows[c] for c in chosen], [hits.scores[c] for c in chosen])


def _select(
    influences: Tensor, candidates: Tensor, diversity: Diversity, k: int, index: InfluenceIndex, alive: Tensor | None
) -> list[int]:
    bandwidth = diversity.bandwidth or median_bandwidth(candidates)
    if diversity.redundancy is Redundancy.SUM:
        return sum_redundancy(influences, candidates, k, diversity.gamma, bandwidth)

    def all_rows() -> Iterable[Tensor]:
        for place, rows in index.blocks():
            yield rows if alive is None else rows[alive[place].to(rows.device)]

    domain: Domain = PoolDomain(candidates, bandwidth)
    if diversity.whole_dataset:
        domain = StreamedDomain(candidates, bandwidth, all_rows)
    if diversity.redundancy is Redundancy.FACILITY_LOCATION:
        return facility_location(influences, k, diversity.gamma, domain)
    return mean_discrepancy(influences, candidates, k, diversity.gamma, bandwidth, domain)


def candidates_notice(diversity: Diversity, used: int) -> list[Notice]:
    """A notice where the smallest pool of an answer is not of the size asked for."""
    if used == diversity.candidates:
        return []
    message = f"{diversity.candidates} candidates were asked for, the smallest pool held {used}"
    return [Notice(NoticeCode.CANDIDATES_CAPPED, message, used)]
