"""Which training examples may answer, and the search among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proponent.errors import ProponentError
from proponent.explainer.query import EmbeddedQuery
from proponent.index.catalog import Catalog
from proponent.index.rows import Hits, InfluenceIndex, Query
from proponent.results import ExplainOptions, Filter, Measure

Found = Mapping[Measure, tuple[Hits, Hits]]
"""Proponents and opponents by measure."""


class Retrieval:
    """Searches the index under filters."""

    def __init__(self, index: InfluenceIndex, catalog: Catalog) -> None:
        self.index = index
        self.catalog = catalog
        self._labels = torch.tensor(catalog.labels())

    def available(self, chosen: Filter) -> int:
        """Number of training examples that may appear."""
        mask = self.eligible(chosen)
        return len(self.index) if mask is None else int(mask.sum())

    def search(
        self, queries: Sequence[EmbeddedQuery | ProponentError], options: Sequence[ExplainOptions]
    ) -> list[Found]:
        """Hits of every query in one pass; none where there is an error or no direction."""
        found: list[Found] = [{} for _ in queries]
        batch = {b: self._query(q, options[b]) for b, q in enumerate(queries) if _is_directed(q)}
        if batch:
            for b, hits in zip(batch, self.index.search(list(batch.values()), tuple(Measure)), strict=True):
                found[b] = hits
        return found

    def eligible(self, chosen: Filter) -> Tensor | None:
        """Rows that may appear, [N] bool, or None for all."""
        if not chosen.active:
            return None
        mask = torch.ones(len(self._labels), dtype=torch.bool)
        if chosen.allow:
            mask &= torch.isin(self._labels, torch.tensor(sorted(chosen.allow)))
        if chosen.deny:
            mask &= ~torch.isin(self._labels, torch.tensor(sorted(chosen.deny)))
        if chosen.exclude:
            mask[list(self.catalog.rows_of(chosen.exclude).values())] = False
        return mask

    def _query(self, query: EmbeddedQuery | ProponentError, option: ExplainOptions) -> Query:
        assert isinstance(query, EmbeddedQuery)
        return Query(query.direction, query.norm, min(option.top_k, len(self.index)), self.eligible(option.filter))


def _is_directed(query: EmbeddedQuery | ProponentError) -> bool:
    return isinstance(query, EmbeddedQuery) and query.directed
