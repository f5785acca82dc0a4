"""How many times as faithful one score is as another, for one model or several of the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.agreement import ranks
from proponent.attribution.division import ratio
from proponent.audit.intervals import two_way_interval


@dataclass(frozen=True)
class Pair:
    """Two scores of one model, held against the same truth.

    Attributes:
        ours: Summed over the halves, [Q, S].
        theirs: The same of the score that it is compared with.
        runs: Losses of the retrained models, [R, S, Q].
    """

    ours: Tensor
    theirs: Tensor
    runs: Tensor


def compared(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Mean linear datamodeling scores of both sides over the models' queries, their ratio and their difference.

    Intervals are the audit's: other queries and other retrained models. Models share the queries; each has halves of
    its own, which are drawn again together. That of a ratio means nothing where its divisor may be zero: that of the
    difference does.
    """
    tables = _Tables(pairs)
    queries, halves = pairs[0].ours.shape
    # The audit draws tables again: these say which rows and columns it took.
    rows, columns = torch.arange(queries)[:, None].expand(-1, halves), torch.arange(halves).expand(queries, -1)
    ours, theirs = tables.means(rows, columns).tolist()
    found: dict[str, Any] = {"ours": ours, "theirs": theirs}
    for name, statistic in (("ratio", tables.ratio), ("difference", tables.difference)):
        low, high = two_way_interval(statistic, rows, columns, correlation=False)
        found |= {name: float(statistic(rows, columns)), f"{name}_95": [low, high]}
    return found


class _Tables:
    """Scores and truths by their ranks within a query: a draw of halves then needs no sorting."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        tables = torch.stack([torch.stack([p.ours, p.theirs, -p.runs.mean(dim=0).mT]) for p in pairs])
        self._places = (2 * ranks(tables)).long()  # ties, which are averaged, share one

    def means(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Rank correlations of both sides with the truth over some halves, mean over some queries and models, [2].

        Args:
            rows: [n, m] int64: in each row the query that it is of.
            columns: [n, m] int64: in each column the half.
        """
        count = self._places.shape[-1]
        times = columns[0].bincount(minlength=count).double().expand(self._places.shape)
        bins = times.new_zeros(*times.shape[:-1], 2 * count).scatter_add_(-1, self._places, times)
        found = (bins.cumsum(dim=-1) - bins / 2).gather(-1, self._places)
        centred = found - (found * times).sum(dim=-1, keepdim=True) / times.sum(dim=-1, keepdim=True)
        spread = (centred.square() * times).sum(dim=-1).sqrt()
        products = (centred[:, :2] * centred[:, 2:] * times[:, :2]).sum(dim=-1)
        correlations = ratio(products, spread[:, :2] * spread[:, 2:])
        return correlations[..., rows[:, 0]].mean(dim=(0, 2))

    def ratio(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Ours by theirs."""
        ours, theirs = self.means(rows, columns)
        return ours / theirs

    def difference(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Ours less theirs."""
        ours, theirs = self.means(rows, columns)
        return ours - theirs
