"""Diverse selections from the candidates that the index found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from proponent.attribution.candidate_pool import Domain, Pool, median_bandwidth
from proponent.attribution.divine import FacilityLocation, MeanDiscrepancy, Selection, SumRedundancy, Term
from proponent.index.search import Hits
from proponent.index.searchable import SearchableRows
from proponent.options import Diversity, Redundancy
from proponent.results import DiversityOutcome, Notice, NoticeCode

DiverseHits = tuple[Hits, DiversityOutcome | None]
"""A list, and what its diversity cost and gave; None where it is empty."""
TERMS: Mapping[Redundancy, type[Term]] = {
    Redundancy.SUM: SumRedundancy,
    Redundancy.FACILITY_LOCATION: FacilityLocation,
    Redundancy.MMD: MeanDiscrepancy,
}


def diversify(
    hits: Hits, diversity: Diversity, k: int, index: SearchableRows, not_forgotten: Tensor | None
) -> DiverseHits:
    """The DIVINE choice of k from one end, strongest first, and its outcome; with gamma = 0 the first k as they are.

    Args:
        hits: The pool, strongest first.
        diversity: What is asked.
        k: Length of the list.
        index: Where the unit rows are.
        not_forgotten: [N] bool, the rows that count as D where all of it is asked for; None for all.
    """
    if not hits.rows:
        return hits, None
    pool = _pool(hits, diversity, index, not_forgotten)
    selection = Selection(pool, TERMS[diversity.redundancy], k, unscaled=diversity.unscaled)
    loss = diversity.max_influence_loss
    choice = selection.at(diversity.gamma) if loss is None else selection.within(loss)
    outcome = DiversityOutcome(
        selection.kept(choice),
        selection.gained(choice),
        pool.mean_similarity(choice.members),
        pool.mean_similarity(selection.plain.members),
    )
    return Hits([hits.rows[c] for c in choice.members], [hits.scores[c] for c in choice.members]), outcome


def _pool(hits: Hits, diversity: Diversity, index: SearchableRows, not_forgotten: Tensor | None) -> Pool:
    rows = index.unit_rows(hits.rows)
    strengths = torch.tensor(hits.scores, dtype=torch.float64).abs()
    bandwidth = diversity.bandwidth or median_bandwidth(rows)
    counted = index.scales.has_direction if not_forgotten is None else index.scales.has_direction & not_forgotten

    def blocks() -> Iterable[Tensor]:
        for place, block in index.blocks():
            yield block[counted[place].to(block.device)]

    influences = (strengths / strengths.max()).to(rows.device)
    domain = Domain(int(counted.sum()), blocks) if diversity.whole_dataset else None
    return Pool(influences, rows, bandwidth, domain)


def candidates_notice(diversity: Diversity, used: int) -> list[Notice]:
    """A notice where the smallest pool of an answer is not of the size asked for."""
    if used == diversity.candidates:
        return []
    message = f"{diversity.candidates} candidates were asked for, the smallest pool held {used}"
    return [Notice(NoticeCode.CANDIDATES_CAPPED, message, used)]
