"""What searches and answers need of a bundle's rows, wherever these lie: in this process or elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proponent.bounds.cancellation import checkpoint
from proponent.index.row_store import BLOCK, RowStore
from proponent.index.scan import PendingScan
from proponent.options import Measure

_STORED_AS = {"has_direction": "directed"}
"""Columns that bundles know by another name."""


@dataclass(frozen=True)
class RowScales:
    """What turns a product of unit vectors into a score; [N] float64 unless said otherwise.

    The two RelatIF scales are kept as ratios: the norms they come from may be too small to be divided later.

    Attributes:
        norms: r_i = ||phi_i||.
        self_influence: s_i = g_i^T C^-1 g_i.
        relative_theta: r_i / ||C^-1 g_i||.
        relative_l: r_i / sqrt(s_i).
        has_direction: bool; rows without a direction take no part in the RelatIF measures.
        curvature: What the example's own loss adds to the curvature along u_i, see ``attribution.groups``.
    """

    norms: Tensor
    self_influence: Tensor
    relative_theta: Tensor
    relative_l: Tensor
    has_direction: Tensor
    curvature: Tensor

    @classmethod
    def from_columns(cls, columns: Mapping[str, Tensor]) -> RowScales:
        """From columns by the names that bundles store."""
        return cls(**{name: columns[_STORED_AS.get(name, name)] for name in cls.__dataclass_fields__})

    def columns(self) -> dict[str, Tensor]:
        """By the names that bundles store."""
        return {_STORED_AS.get(name, name): column for name, column in vars(self).items()}

    def of(self, measure: Measure) -> Tensor:
        """Scale of each row, [N] float64; 0 for rows that the measure leaves out."""
        if measure is Measure.INFLUENCE:
            return self.norms
        ratio = self.relative_theta if measure is Measure.THETA_RELATIF else self.relative_l
        return torch.where(self.has_direction, ratio, torch.zeros_like(ratio))


SCALE_COLUMNS = tuple(_STORED_AS.get(name, name) for name in RowScales.__dataclass_fields__)
"""Names of the scales as bundles store them."""


class SearchableRows(ABC):
    """N unit rows that can be searched, with their scales.

    Args:
        rows: Where they lie.
        scales: Of the rows.
        size: K, the numbers of a query.
    """

    def __init__(self, rows: RowStore, scales: RowScales, size: int) -> None:
        self._rows = rows
        self.scales = scales
        self.size = size
        self.exact_scales = torch.stack([scales.of(measure) for measure in Measure])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where rows come to, and products."""
        return self._rows.device

    @abstractmethod
    def scan(
        self,
        directions: Tensor,
        lengths: Sequence[int],
        eligible: Sequence[Tensor | None],
        measures: Sequence[Measure],
    ) -> PendingScan:
        """Begins one pass over the rows for unit queries [B, K].

        Args:
            directions: Of the queries, on any device.
            lengths: Of the lists of each query.
            eligible: Which rows may appear for each query, [N] bool, or None for all.
            measures: Of which lists are wanted.
        """

    @abstractmethod
    def check_rows(self, rows: Sequence[int]) -> None:
        """Looks whether rows with a direction, on which an answer rests, still are unit vectors.

        Raises:
            CorruptBundleError: One is not: the rows were overwritten.
        """

    @abstractmethod
    def check(self) -> None:
        """Looks whether all rows can be searched now, at little cost.

        Raises:
            UnavailableError: Some cannot.
        """

    def unit_rows(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Unit rows as stored, [n, K] float32."""
        chosen = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        return self._rows.take(chosen)[:, : self.size].float()

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Unit rows in order, [n, K] float32, and where each block lies."""
        for start in range(0, len(self), BLOCK):
            checkpoint()
            place = slice(start, min(start + BLOCK, len(self)))
            yield place, self._rows.between(place)[:, : self.size].float()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """``sum_i w_i u_i``, [K] float64, for weights [N]; see `RowStore.weighted_sum`."""
        return self._rows.weighted_sum(weights)[: self.size]

    def products(self, directions: Tensor, *, precise: bool = False) -> Tensor:
        """Products of unit queries [B, K] with every row, [B, N] float32, by matrix product.

        One query is multiplied in half precision on a processor, which reads the rows once and widens none;
        ``precise`` asks for single precision.
        """
        query = torch.nn.functional.pad(directions.to(self.device), (0, self._rows.width - self.size))
        return self._rows.products(query, precise=precise)

    def exact_products(self, directions: Tensor, owners: Tensor, rows: Tensor) -> Tensor:
        """Products of stored rows [n] with the queries [B, K] of their owners [n], whatever is beside them.

        Returns:
            [n] float64, on the device.
        """
        wide, *places = (each.to(self.device) for each in (directions.double(), owners, rows))
        return self._rows.exact_products(wide, *places)

    def scales_at(self, measures: Sequence[Measure], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """What turns products into scores: of E measures, one for each column of rows [B, E, c], in that shape."""
        of = np.array([list(Measure).index(measure) for measure in measures])
        found: NDArray[np.float64] = self.exact_scales.numpy()[of[:, None], rows]
        return found
