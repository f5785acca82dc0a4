"""Whose removal would lower the predicted class's margin over another class: all rows, strongest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.division import positive_or_one
from proponent.attribution.groups import Population, fewest_to_cross
from proponent.index.row_store import SINGLE_ERROR
from proponent.index.searchable import SearchableRows

Margin = tuple[int, float, Tensor]
"""Another class, the predicted class's margin over it, and the margin's gradient [K]."""


@dataclass(frozen=True)
class Rival:
    """The rows that lower the predicted class's margin over another one, and how many may do.

    Attributes:
        rows: Strongest first, [n] int64.
        scores: Influence of each on the margin, [n] float64.
        needed: How many suffice to first order; all of them where they do not suffice.
        left: Margin then left.
    """

    class_id: int
    rows: Tensor
    scores: Tensor
    needed: int
    left: float


@dataclass(frozen=True)
class Rivals:
    """What the removal of each row would do to margins, to first order.

    Attributes:
        index: The rows.
        population: Of the same rows.
        train_size: N, the examples that the model was trained on.
        not_forgotten: [n] bool, or None for all rows.
    """

    index: SearchableRows
    population: Population
    train_size: int
    not_forgotten: Tensor | None

    def nearest(self, margins: Sequence[Margin], limit: int) -> Rival:
        """The class that fewest removals may bring into the lead, with its rows in exact order.

        Classes are compared by products in single precision; the rows of the one chosen are ranked by their stored
        numbers in double precision, ties by row, wherever they lie.
        """
        gradients = torch.stack([gradient for _, _, gradient in margins])
        norms = gradients.norm(dim=1)
        directions = (gradients / positive_or_one(norms)[:, None]).float()
        products = self.index.products(directions, precise=True).cpu()
        scales = self.index.scales.norms / self.train_size * norms[:, None].cpu()
        rivals = [
            self._rival(each, products[number].double() * scales[number], limit)
            for number, each in enumerate(margins)
        ]
        number = min(range(len(rivals)), key=lambda n: _distance(rivals[n]))
        own, direction = scales[number], directions[number : number + 1]
        rows = self._candidates(products[number].double(), own, limit)
        exact = self.index.exact_products(direction, torch.zeros_like(rows), rows).cpu() * own[rows]
        return self._rival(margins[number], exact, limit, rows)

    def _candidates(self, products: Tensor, scales: Tensor, limit: int) -> Tensor:
        """All rows that may be among the ``limit`` strongest by exact products, ascending."""
        highest = (products + SINGLE_ERROR) * scales
        if self.not_forgotten is not None:
            highest[~self.not_forgotten] = torch.inf
        reach = highest.kthvalue(min(max(limit, 1), len(highest))).values
        may = (products - SINGLE_ERROR) * scales <= reach
        return (may if self.not_forgotten is None else may & self.not_forgotten).nonzero().flatten()

    def _rival(self, margin: Margin, changes: Tensor, limit: int, rows: Tensor | None = None) -> Rival:
        """From the change of the margin that each removal makes, of all rows or of some."""
        class_id, over, gradient = margin
        centred = changes - gradient.cpu().double() @ self.population.mean / self.train_size
        if rows is None and self.not_forgotten is not None:
            centred[~self.not_forgotten] = 0.0
        places, needed, left = fewest_to_cross(centred, over, limit, self.train_size)
        scores = -changes[places] * self.train_size
        return Rival(class_id, places if rows is None else rows[places], scores, needed, left)


def _distance(rival: Rival) -> tuple[bool, float]:
    return rival.left >= 0, rival.needed if rival.left < 0 else rival.left
