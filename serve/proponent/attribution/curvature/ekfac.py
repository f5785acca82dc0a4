"""EK-FAC (George et al. 2018): K-FAC's eigenbasis with the exact second moment along each eigenvector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.curvature.rotation import Part, rotated
from proponent.attribution.gradients.formed import AnyGradient
from proponent.errors import CurvatureError


class LambdaAccumulator:
    """Running float64 sums of the squared gradient coordinates ``(Q_out^T G Q_in)^2`` of every layer.

    Args:
        bases: K-FAC factors, see `kfac.eigenbases`; not modified.
    """

    def __init__(self, bases: Mapping[str, LayerFactors]) -> None:
        self._bases = dict(bases)
        self._working: dict[str, LayerFactors] = {}
        self._sums = {name: torch.zeros_like(basis.eigenvalues) for name, basis in bases.items()}
        self._count = 0

    def update(self, passes: Iterable[Mapping[str, AnyGradient]], count: int) -> None:
        """Add one batch: all backward passes of one forward, and its number of examples."""
        for gradients in passes:
            for name, gradient in gradients.items():
                self._add(name, gradient)
        self._count += count

    def update_beside(
        self, gradients: Mapping[str, AnyGradient], others: Mapping[str, AnyGradient]
    ) -> dict[str, list[Part]]:
        """Add one batch of a single backward pass; returns the coordinates of another one of the same forward.

        The two share what is computed of the inputs.
        """
        self._count += len(next(iter(gradients.values())).anchor)
        return {name: self._add(name, gradient, [others[name]]) for name, gradient in gradients.items()}

    def _add(self, name: str, gradient: AnyGradient, others: Sequence[AnyGradient] = ()) -> list[Part]:
        """Adds a gradient's squares; returns the others' coordinates, of one of them at most."""
        basis, squares, beside = self._basis(name, gradient.anchor), list[Tensor](), list[Part]()
        for some in gradient.slices():
            found, *rest = rotated([each.examples(some) for each in (gradient, *others)], basis.q_out, basis.q_in)
            squares.append(found.squares())
            beside += [(some, each) for each in rest]
        self._sums[name] += torch.stack(squares).sum(dim=0).to(self._sums[name])
        return beside

    def state(self) -> dict[str, Tensor]:
        """The sums by name, ``eigenvalues/<layer>`` and ``count``; not copied."""
        state = {f"eigenvalues/{name}": sums for name, sums in self._sums.items()}
        return state | {"count": torch.tensor(self._count)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of the same bases."""
        for name, sums in self._sums.items():
            sums.copy_(state[f"eigenvalues/{name}"])
        self._count = int(state["count"])

    def factors(self) -> dict[str, LayerFactors]:
        """EK-FAC factors: the bases with the mean squares as eigenvalues.

        Raises:
            CurvatureError: If there were no examples, or a layer's sums are not finite.
        """
        if self._count == 0:
            raise CurvatureError("No examples: the batches must be an iterable that can be read twice.")
        for name, sums in self._sums.items():
            if not bool(sums.isfinite().all()):
                raise CurvatureError(f"Layer {name!r}: its squared gradients are not finite (NaN or infinity).")
        return {name: replace(self._bases[name], eigenvalues=s / self._count) for name, s in self._sums.items()}

    def _basis(self, name: str, like: Tensor) -> LayerFactors:
        """The basis in the precision of the gradients, cast once."""
        working = self._working.get(name)
        if working is None or working.q_out.dtype != like.dtype or working.q_out.device != like.device:
            working = self._working[name] = self._bases[name].to(like)
        return working
