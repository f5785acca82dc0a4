"""One pass over rows for a batch: the candidates for the ends of its lists, with their exact products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proponent.cuda_graphs import Replay
from proponent.index.row_store import HALF_ERROR
from proponent.index.selection import EndBounds, strongest_ends
from proponent.options import Measure

SPARE, COARSE_SPARE, SPARE_SHARE = 2, 22, 32
"""Candidates beyond k, so that a look past the end of a list is rarely needed: more where products are coarse, and
one more for every 32 of a longer list, whose last scores lie closer together."""

End = tuple[Measure, float]
Numbers = NDArray[np.float64]
"""What is ranked: some hundred numbers, on which an operation of numpy takes a fifth of the time of torch's."""
Places = NDArray[np.int64]


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
class Candidates:
    """Candidates of B queries at E ends.

    Attributes:
        rows: Ascending, [B, E, c].
        exact: Their products, [B, E, c].
        beyond: Bound on the scores of all other rows for a query of norm 1, [B, E]; -inf where there are none.
    """

    rows: Places
    exact: Numbers
    beyond: Numbers


class PendingScan(Protocol):
    """A pass that was begun, of which nothing has been read."""

    @property
    def measures(self) -> Sequence[Measure]:
        """Two ends of each, in this order."""

    def read(self) -> Candidates:
        """Its candidates, once they are found."""

    def more(self, place: int, query: Query, end: End, count: int) -> Candidates:
        """``count`` candidates, or all rows, for one end of the query at a place in the batch, [1, 1, c]."""


class ScannedRows(Protocol):
    """Rows on one device, whose products are taken as a whole."""

    @property
    def device(self) -> torch.device:
        """Where products are computed."""

    def __len__(self) -> int: ...

    def products(self, directions: Tensor, *, precise: bool = False) -> Tensor:
        """Of unit queries [B, K] with every row, [B, N] float32."""

    def product_error(self, count: int) -> float:
        """Bound on the error of ``products`` of so many queries."""

    def scanned_scales(self, measures: Sequence[Measure]) -> Tensor:
        """Not below the exact scales of some measures, [M, N] float32."""

    def exact_products(self, directions: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        """Of rows [n] with the queries [B, K] of their owners [n], [n] float64, whatever is beside them."""


@dataclass(frozen=True)
class Scan:
    """Candidates of a batch on the device, where they may still be computed; reading them waits for that.

    Attributes:
        directions: The queries, [B, K].
        products: [B, N] float32, with an error of at most ``error``; None where they are made anew if need be.
        numbers: Candidates, ascending, their exact products, and the bound on the scores of all other rows for a
            query of norm 1, side by side, so that all are read at once: [B, E, c + c + 1] float64.
        measures: Two ends of each.
    """

    index: ScannedRows
    directions: Tensor
    products: Tensor | None
    error: float
    numbers: Tensor
    measures: Sequence[Measure]

    def read(self) -> Candidates:
        """See `PendingScan`."""
        numbers = self.numbers.cpu().numpy()
        count = numbers.shape[2] // 2
        beyond = numbers[..., -1] if count < len(self.index) else np.full(numbers.shape[:2], -inf)
        return Candidates(numbers[..., :count].astype(np.int64), numbers[..., count:-1], beyond)

    def more(self, place: int, query: Query, end: End, count: int) -> Candidates:
        """See `PendingScan`."""
        measure, sign = end
        asked = self.directions[place : place + 1]
        products = self.index.products(asked) if self.products is None else self.products[place : place + 1]
        bounds = torch.add(self.error, products[0], alpha=sign) * self.index.scanned_scales([measure])[0]
        if query.eligible is not None:
            bounds *= query.eligible.to(bounds)
        count = min(count, len(self.index))
        values, candidates = bounds.topk(count)
        rows = candidates.sort().values[None, None]
        exact = _exact_products(self.index, query.direction[None].to(self.index.device), rows)
        beyond = float(values[-1]) if count < len(self.index) else -inf
        return Candidates(rows.cpu().numpy(), exact.cpu().numpy(), np.array([[beyond]]))


def scan(
    index: ScannedRows,
    directions: Tensor,
    lengths: Sequence[int],
    eligible: Sequence[Tensor | None],
    measures: Sequence[Measure],
    replay: Replay | None = None,
) -> Scan:
    """Candidates for the lists of some queries, of which neither norms nor directions [B, K] have been read.

    Args:
        index: The rows.
        directions: Unit queries.
        lengths: Of the lists of each query.
        eligible: Which rows may appear for each query, [N] bool, or None for all.
        measures: Of which lists are wanted.
        replay: What records the pass, where all rows lie on the device.
    """
    error = index.product_error(len(directions))
    spare = COARSE_SPARE if error >= HALF_ERROR else SPARE
    count = min(max(lengths) + spare + max(lengths) // SPARE_SHARE, len(index))
    directions, allowed = directions.to(index.device, non_blocking=True), _allowed(index, eligible)
    given = (directions,) if allowed is None else (directions, allowed)

    def compute(directions: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, ...]:
        products = index.products(directions)
        weights = None if allowed is None else allowed.float()
        bounds = EndBounds(products, index.scanned_scales(measures), error, weights)
        found, candidates = strongest_ends(bounds, count)
        rows = candidates.sort(dim=2).values
        exact = _exact_products(index, directions, rows)
        return torch.cat([rows.double(), exact, found[..., -1:].double()], dim=2), products

    if replay is None:
        numbers, products = compute(*given)
        return Scan(index, directions, products, error, numbers, measures)
    # Products of a recording are overwritten by the next batch.
    [numbers] = replay((count, tuple(measures)), lambda *some: compute(*some)[:1], *given)
    return Scan(index, directions, None, error, numbers, measures)


def _allowed(index: ScannedRows, eligible: Sequence[Tensor | None]) -> Tensor | None:
    """Where a row may appear, [B, N] bool; None where nothing is filtered."""
    if all(mask is None for mask in eligible):
        return None
    everything = torch.ones(len(index), dtype=torch.bool)
    masks = torch.stack([everything if mask is None else mask for mask in eligible])
    return masks.to(index.device, non_blocking=True)


def _exact_products(index: ScannedRows, directions: Tensor, rows: Tensor) -> Tensor:
    """Of each query with its own rows [B, E, c] on the device; on a processor once for rows of several ends."""
    owners = torch.arange(len(directions), device=rows.device)[:, None, None]
    if index.device.type != "cpu":
        # To find what the ends share would wait for the device, for which a few more products are nothing.
        return index.exact_products(directions, owners.expand_as(rows).flatten(), rows.flatten()).view_as(rows)
    pairs, places = torch.unique(rows + owners * len(index), return_inverse=True)
    return index.exact_products(directions, pairs // len(index), pairs % len(index))[places]
