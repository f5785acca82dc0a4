"""EK-FAC (George et al. 2018): K-FAC's eigenbasis with the exact second moment along each eigenvector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerGradients, summed_squares, times
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

    def update(self, passes: Iterable[LayerGradients], count: int) -> None:
        """Add one batch: all backward passes of one forward, and its number of examples."""
        for gradients in passes:
            for name, gradient in gradients.items():
                self._sums[name] += _squares(gradient, self._basis(name, gradient.anchor)).to(self._sums[name])
        self._count += count

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


def _squares(gradient: LayerGradient, basis: LayerFactors) -> Tensor:
    """Sum over examples of squared coordinates, [G, o, i] float64."""
    if gradient.positions == 1:
        left, right = times(gradient.deltas, basis.q_out)[:, :, 0], times(gradient.inputs, basis.q_in)[:, :, 0]
        return left.double().square().permute(1, 2, 0) @ right.double().square().transpose(0, 1)
    parts = (gradient.examples(some) for some in gradient.slices())
    return torch.stack([summed_squares(part.project(basis.q_out, basis.q_in)) for part in parts]).sum(dim=0)
