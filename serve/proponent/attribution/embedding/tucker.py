"""Fitting each layer's two-sided projection to the training rows' directions.

Second moments are those of *unit* rows w / ||w||: in a well-trained network row norms span many orders of
magnitude, and raw moments would see only a handful of examples.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor

from proponent.attribution.curvature.rotation import RotatedGradients
from proponent.attribution.division import reciprocals
from proponent.attribution.embedding.subspace import LayerSubspace
from proponent.attribution.embedding.whitening import LayerWhitening, Whitening
from proponent.attribution.uniforms import example_signs

LEVERAGE = 0.995
"""Share of a basis's leverage that the kept eigenvectors carry; the others are not needed online."""
ENOUGH = 0.95
"""Share of the unit rows' energy beyond which more numbers are not worth their cost to every query."""
MIXTURES = 4
"""Random mixtures of an example's rows that stand for all of them in a second moment."""


class MomentAccumulator:
    """Float64 sums of ``u u^T`` (rows, [G o, G o]) and ``u^T u`` (columns, [i, i]) over unit rows u.

    Both are estimated without bias from random signs S, as ``(u S) (u S)^T`` with ``E[S S^T] = I`` (Hutchinson's
    trick): of a side longer than ``MIXTURES`` only that many mixtures of each example are taken. The noise of
    thousands of examples averages out, and wide layers cost what narrow ones do.
    """

    def __init__(self, whitening: Whitening, seed: int) -> None:
        self._seed = seed
        self.rows = {name: _square(w.root.shape[0] * w.root.shape[1], w.root) for name, w in whitening.items()}
        self.columns = {name: _square(w.root.shape[2], w.root) for name, w in whitening.items()}

    def update(self, whitening: Whitening, gradients: RotatedGradients, keys: Tensor) -> None:
        """Adds a batch of examples with int64 ``keys``; rows without a direction count nothing."""
        mixtures, energy = {}, torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
        for number, (name, layer) in enumerate(whitening.items()):
            over_inputs, over_outputs = (
                _mixtures(keys, self._seed + 2 * number + side, len(sums[name]))
                for side, sums in enumerate((self.columns, self.rows))
            )
            parts = []
            for some, coordinates in gradients[name]:
                value = layer.whiten(coordinates)
                energy[some] += value.energy()
                parts.append((value.mix_inputs(over_inputs[some]), value.mix_outputs(over_outputs[some])))
            mixtures[name] = [torch.cat(side) for side in zip(*parts, strict=True)]
        scale = reciprocals(energy.sqrt())
        for name, (rows, columns) in mixtures.items():
            self.rows[name] += _second_moment(rows * scale[:, None, None])
            self.columns[name] += _second_moment(columns * scale[:, None, None])

    def state(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {f"rows/{n}": v for n, v in self.rows.items()} | {f"columns/{n}": v for n, v in self.columns.items()}

    def sides(self) -> dict[str, Sides]:
        """Of all layers."""
        return {name: Sides(Side.of(self.rows[name]), Side.of(self.columns[name])) for name in self.rows}


def _mixtures(keys: Tensor, seed: int, count: int) -> Tensor:
    """Weights of random mixtures of ``count`` vectors, [B, s, count]; few of them stay as they are."""
    if count <= MIXTURES:
        return torch.eye(count, device=keys.device).expand(len(keys), -1, -1)
    signs = example_signs(keys, seed, MIXTURES * count).reshape(-1, MIXTURES, count)
    return signs / sqrt(MIXTURES)


def _second_moment(rows: Tensor) -> Tensor:
    """[B, s, k] to the sum of outer products, [k, k]."""
    tall = rows.flatten(0, 1)
    return tall.mT @ tall


@dataclass(frozen=True)
class Side:
    """Eigenvectors of a second moment by descending eigenvalue, and the energy of the first k of them, from k = 0."""

    vectors: Tensor
    kept: list[float]

    @classmethod
    def of(cls, moment: Tensor) -> Side:
        """Of a second moment, [n, n] float64."""
        values, vectors = torch.linalg.eigh((moment + moment.mT) / 2)
        kept = values.clamp(min=0).flip(0).cumsum(0)
        return cls(vectors.flip(1), [0.0, *kept.tolist()])


@dataclass(frozen=True)
class Sides:
    """Of a layer's unit rows u: of ``u u^T``, and of ``u^T u``."""

    rows: Side
    columns: Side


def fit_subspaces(
    sides: Mapping[str, Sides], whitening: Whitening, size: int, least: int | None = None
) -> dict[str, LayerSubspace]:
    """Shares ``size`` numbers out over layers and sides, always where the next ones keep the most energy.

    Args:
        sides: Of unit rows.
        whitening: What they were made by.
        size: Most numbers of all layers together.
        least: So many suffice where they keep ``ENOUGH``; None for no fewer than ``size``.
    """
    ranks = _share_out(sides, size, size if least is None else least)
    return {
        name: _subspace(sides[name].rows.vectors[:, :r], sides[name].columns.vectors[:, :c], whitening[name])
        for name, (r, c) in ranks.items()
    }


@dataclass(frozen=True, order=True)
class _Step:
    """A layer's next ranks; the step that keeps the most energy for each number sorts first."""

    loss: float
    layer: str
    after: tuple[int, int]
    before: tuple[int, int]

    @property
    def cost(self) -> int:
        return prod(self.after) - prod(self.before)


def _share_out(sides: Mapping[str, Sides], size: int, least: int) -> dict[str, tuple[int, int]]:
    """Greedy ranks (r, c); a layer's kept energy is taken as the product of both sides' shares."""
    ranks = {name: (1, 1) for name in sides}
    used = len(ranks)
    wanted = ENOUGH * sum(_energy(each, -1, -1) for each in sides.values())
    kept = sum(_energy(each, 1, 1) for each in sides.values())
    queue = [step for name in ranks for step in _steps(name, sides[name], ranks[name])]
    heapq.heapify(queue)
    while queue and (used < least or kept < wanted):
        step = heapq.heappop(queue)
        has_grown_since = ranks[step.layer] != step.before  # by the step on its other side
        if has_grown_since or used + step.cost > size:
            continue
        ranks[step.layer] = step.after
        used += step.cost
        kept -= step.loss * step.cost
        for following in _steps(step.layer, sides[step.layer], step.after):
            heapq.heappush(queue, following)
    return ranks


def _steps(layer: str, sides: Sides, ranks: tuple[int, int]) -> Iterator[_Step]:
    """A sixteenth more rows, and a sixteenth more columns, where there are more."""
    r, c = ranks
    now = _energy(sides, r, c)
    more_rows, more_columns = (
        min(rank + 1 + rank // 16, len(side.kept) - 1) for rank, side in ((r, sides.rows), (c, sides.columns))
    )
    for after in ((more_rows, c), (r, more_columns)):
        cost = prod(after) - prod(ranks)
        if cost > 0:
            yield _Step(-(_energy(sides, *after) - now) / cost, layer, after, ranks)


def _energy(sides: Sides, r: int, c: int) -> float:
    rows, columns = sides.rows.kept, sides.columns.kept
    total = sqrt(rows[-1] * columns[-1])  # two estimates of one energy
    return rows[r] * columns[c] / total if total > 0 else 0.0


def _subspace(rows: Tensor, columns: Tensor, whitening: LayerWhitening) -> LayerSubspace:
    groups, out, _ = whitening.root.shape
    needed_out = _needed(rows.reshape(groups, out, -1).square().sum(dim=(0, 2)))
    needed_in = _needed(columns.square().sum(dim=1))
    kept_rows = rows.reshape(groups, out, -1)[:, needed_out].flatten(0, 1)
    return LayerSubspace(
        left=whitening.q_out[:, :, needed_out].contiguous(),
        right=whitening.q_in[:, :, needed_in].contiguous(),
        whitening=whitening.root[:, needed_out][:, :, needed_in].contiguous(),
        rows=_orthonormal(kept_rows),
        columns=_orthonormal(columns[needed_in]),
        kept_out=needed_out,
        kept_in=needed_in,
    )


def _needed(leverage: Tensor) -> Tensor:
    """Indices of the eigenvectors that carry ``LEVERAGE`` of a basis, ascending."""
    order = leverage.argsort(descending=True, stable=True)
    share = leverage[order].cumsum(0) / leverage.sum()
    count = int((share < LEVERAGE).sum()) + 1
    return order[:count].sort().values


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns)[0]
    return basis.float().contiguous()


def _square(size: int, like: Tensor) -> Tensor:
    return torch.zeros(size, size, dtype=torch.float64, device=like.device)
