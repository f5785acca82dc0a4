"""Which training examples may answer, and the search among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proponent.bounds.cancellation import Token, scope
from proponent.bounds.cost import pool_size
from proponent.errors import DeadlineError, InvalidInputError, NotFoundError, ProponentError
from proponent.explainer.answers import Outcomes
from proponent.explainer.diversity import DiverseHits, candidates_notice, diversify
from proponent.explainer.query import EmbeddedQuery
from proponent.index.catalog import Catalog
from proponent.index.scan import PendingScan, Query
from proponent.index.search import Hits, lists
from proponent.index.searchable import SearchableRows
from proponent.index.tombstones import Tombstones
from proponent.options import Diversity, ExplainOptions, Filter, Measure, Ranking
from proponent.results import Notice, NoticeCode

Ends = Mapping[Measure, tuple[Hits, Hits]]
"""Proponents and opponents by measure."""


@dataclass(frozen=True)
class Found:
    """What a search gave, and what its reader must know."""

    ends: Ends = field(default_factory=dict)
    notices: Sequence[Notice] = ()
    outcomes: Outcomes = field(default_factory=dict)


@dataclass(frozen=True)
class PendingSearch:
    """A pass over the rows that was begun, if any measure is asked for, and which rows may appear for each query."""

    scan: PendingScan | None
    masks: Sequence[Tensor | None]


class Retrieval:
    """Searches the index under filters; forgotten examples are in no list and in no group.

    Until compaction they still count in sums over all rows, such as the mean of a removal's population.
    """

    def __init__(self, index: SearchableRows, catalog: Catalog, tombstones: Tombstones) -> None:
        self.index = index
        self.catalog = catalog
        self._tombstones = tombstones
        self._labels = torch.tensor(catalog.labels())
        self._forgotten: frozenset[str] = frozenset()
        self._not_forgotten: Tensor | None = None

    def not_forgotten(self) -> Tensor | None:
        """Rows that are not forgotten now, [N] bool, or None for all."""
        forgotten = self._tombstones.ids()
        if forgotten is not self._forgotten:
            self._not_forgotten = self._without(sorted(forgotten)) if forgotten else None
            self._forgotten = forgotten
        return self._not_forgotten

    def rows_of(self, example_ids: Sequence[str]) -> list[int]:
        """Row of each id, in order.

        Raises:
            NotFoundError: Names the unknown ids (at most five); a forgotten example is unknown.
        """
        found, forgotten = self.catalog.rows_of(example_ids), self._tombstones.ids()
        unknown = [name for name in dict.fromkeys(example_ids) if name not in found or name in forgotten]
        if unknown:
            shown = ", ".join(repr(name) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise NotFoundError(
                f"training examples are unknown: {shown}", field="example_ids", reason="EXAMPLE_UNKNOWN"
            )
        return [found[name] for name in example_ids]

    def begin(self, directions: Tensor, options: Sequence[ExplainOptions]) -> PendingSearch:
        """One pass over the rows for unit queries [B, K]; reads nothing, so that a GPU is not waited for."""
        asked = {measure for option in options for measure in option.measures}
        measures = tuple(measure for measure in Measure if measure in asked)
        not_forgotten = self.not_forgotten()
        masks = [self._eligible(option.filter, not_forgotten) for option in options]
        lengths = [self._pool(option) for option in options]
        return PendingSearch(self.index.scan(directions, lengths, masks, measures) if measures else None, masks)

    def finish(
        self,
        pending: PendingSearch,
        queries: Sequence[EmbeddedQuery | ProponentError],
        options: Sequence[ExplainOptions],
        tokens: Sequence[Token],
    ) -> list[Found | ProponentError]:
        """Hits of every query; none where there is an error or no direction.

        A query's diverse selection is made under its own token: a DeadlineError takes its place.
        """
        masks = pending.masks
        batch = {
            b: Query(query.direction, query.norm, self._pool(options[b]), masks[b])
            for b, query in enumerate(queries)
            if isinstance(query, EmbeddedQuery) and query.has_direction
        }
        searched = lists(self.index, pending.scan, batch) if pending.scan and batch else [{} for _ in batch]
        ends = dict(zip(batch, searched, strict=True))
        return [self._wanted(ends.get(b, {}), options[b], masks[b], tokens[b]) for b in range(len(queries))]

    def _wanted(
        self, ends: Ends, option: ExplainOptions, mask: Tensor | None, token: Token
    ) -> Found | ProponentError:
        try:
            with scope(token):
                return self._found(ends, option, mask)
        except DeadlineError as error:
            return error

    def _pool(self, option: ExplainOptions) -> int:
        return min(pool_size(option.diversity, option.top_k), len(self.index))

    def _found(self, ends: Ends, option: ExplainOptions, mask: Tensor | None) -> Found | ProponentError:
        if option.diversity is not None and option.ranking is Ranking.BY_MAGNITUDE:
            return InvalidInputError(
                "a diverse selection is made of each end and is not ranked by magnitude: ask for one of them",
                field="ranking",
                reason="DIVERSE_BY_MAGNITUDE",
            )
        available = len(self.index) if mask is None else int(mask.sum())
        notices = _capped(option.top_k, available)
        if option.diversity is None or not ends:
            return Found(ends, notices)
        asked = {measure: ends[measure] for measure in option.measures}
        smallest = min(len(hits.rows) for pair in asked.values() for hits in pair)
        notices += candidates_notice(option.diversity, smallest)
        chosen = {m: self._diverse(pair, option.diversity, option.top_k) for m, pair in asked.items()}
        lists = {m: (proponents[0], opponents[0]) for m, (proponents, opponents) in chosen.items()}
        return Found(lists, notices, {m: (pros[1], cons[1]) for m, (pros, cons) in chosen.items()})

    def _diverse(self, ends: tuple[Hits, Hits], diversity: Diversity, k: int) -> tuple[DiverseHits, DiverseHits]:
        proponents, opponents = (diversify(hits, diversity, k, self.index, self.not_forgotten()) for hits in ends)
        return proponents, opponents

    def _eligible(self, chosen: Filter, not_forgotten: Tensor | None) -> Tensor | None:
        """Rows that may appear, [N] bool, or None for all."""
        if not chosen.active:
            return not_forgotten
        mask = torch.ones(len(self._labels), dtype=torch.bool) if not_forgotten is None else not_forgotten.clone()
        if chosen.allow:
            mask &= torch.isin(self._labels, torch.tensor(sorted(chosen.allow)))
        if chosen.deny:
            mask &= ~torch.isin(self._labels, torch.tensor(sorted(chosen.deny)))
        return mask & self._without(chosen.exclude) if chosen.exclude else mask

    def _without(self, example_ids: Sequence[str]) -> Tensor:
        mask = torch.ones(len(self._labels), dtype=torch.bool)
        mask[list(self.catalog.rows_of(example_ids).values())] = False
        return mask


def _capped(top_k: int, available: int) -> list[Notice]:
    if top_k <= available:
        return []
    return [Notice(NoticeCode.K_CAPPED, f"top_k {top_k} was capped to {available} examples", available)]
