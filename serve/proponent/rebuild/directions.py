"""The whitened directions of examples: what joint basis and rows are made of, at one damping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proponent.attribution.embedding.subspace import LayerSubspace, SubspaceEmbedding
from proponent.attribution.embedding.whitening import LayerWhitening, Whitening
from proponent.errors import CurvatureError
from proponent.rebuild.block_gradients import labelled
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.stationarity import GRADIENT, NORMS, folded
from proponent.rebuild.training_set import Batch

WHITENING, SUBSPACES = "whitening", "subspaces"

Directions = Mapping[str, Tensor]
"""Columns of some examples, before the joint basis; see `directions_of`."""


def stored_whitening(context: RebuildContext) -> Whitening:
    """All eigenvectors of every layer at the damping of this workspace."""
    stored = context.workspace.load(WHITENING)
    return {
        name: LayerWhitening(*(stored[f"{part}/{name}"].to(context.device) for part in ("q_out", "q_in", "root")))
        for name in context.layers
    }


def stored_subspaces(context: RebuildContext) -> dict[str, LayerSubspace]:
    """The subspaces, fitted once: what is stored after them holds for no other choice of eigenvectors."""
    stored = SubspaceEmbedding.from_tensors("", context.workspace.load(SUBSPACES), context.layers)
    return dict(stored.to(context.device).subspaces)


def directions_of(
    context: RebuildContext, whitening: Whitening, subspaces: Mapping[str, LayerSubspace], positions: Sequence[int]
) -> Directions:
    """Directions of some examples, and the sum of their gradients.

    Raises:
        CurvatureError: The gradient of one is NaN or infinite.
    """
    sums = {name: torch.zeros_like(layer.root, dtype=torch.float64) for name, layer in whitening.items()}
    rows = context.of_each(positions, lambda batch: _of_batch(context, whitening, subspaces, batch, sums))
    unusable = (~rows["energy"].isfinite()).nonzero()
    if len(unusable):
        name = context.data.example_id(positions[int(unusable[0])])
        raise CurvatureError(f"the gradient of example {name!r} is NaN or infinite", field="loss")
    return {**rows, GRADIENT: folded(context, sums.values())}


def _of_batch(
    context: RebuildContext,
    whitening: Whitening,
    subspaces: Mapping[str, LayerSubspace],
    batch: Batch,
    sums: Mapping[str, Tensor],
) -> Directions:
    """Z and R^T (Lambda + lambda)^-1 w C of all layers, ||w||^2 and w^T (Lambda + lambda)^-1 w of a batch.

    Its gradients are added to ``sums``, in the eigenbases.
    """
    found = labelled(context, batch, is_last=True)
    scaled, gradients = found.scaled, found.rotated(whitening)
    z: dict[str, list[Tensor]] = {name: [] for name in gradients}
    crossed: dict[str, list[Tensor]] = {name: [] for name in gradients}
    energy, damped_energy, squares = (torch.zeros_like(scaled.scale) for _ in range(3))
    for name, parts in gradients.items():
        for some, coordinates in parts:
            value = whitening[name].whiten(coordinates)
            inside, weighted = subspaces[name].compress_all(value, whitening[name].root)
            z[name].append(inside)
            crossed[name].append(weighted)
            energy[some] += value.energy()
            damped_energy[some] += value.damped_energy()
            squares[some] += value.gradient_norms().square()
            sums[name] += value.gradient_sum(scaled.scale[some])
    return {
        "z": torch.cat([torch.cat(parts) for parts in z.values()], dim=1),
        "crossed": torch.cat([torch.cat(parts) for parts in crossed.values()], dim=1),
        "energy": energy,
        "damped_energy": damped_energy,
        "scale": scaled.scale,
        "directed": scaled.has_direction,
        NORMS: squares.sqrt() * scaled.scale,
    }
