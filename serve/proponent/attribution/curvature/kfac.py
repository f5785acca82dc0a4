"""K-FAC (Martens & Grosse 2015; Grosse & Martens 2016 for convolutions): covariances and their eigenbases.

An example's gradient is ``sum_t d_t a_t^T`` over T positions. K-FAC takes inputs and output gradients to be
independent, and output gradients at different positions to be uncorrelated. Then the mean over examples of
``g g^T`` (row-major g) is ``S (x) A`` with

    A = mean over examples of  sum_t a_t a_t^T,      S = mean over examples of  (1/T) sum_t d_t d_t^T,

for each group of a grouped convolution on its own. With T = 1 these are the plain second moments. Where positions may
be padding, T and both sums count those alone that have a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from proponent.attribution.curvature.factors import LayerFactors
from proponent.attribution.gradients.layer_gradients import LayerGradient, LayerGradients
from proponent.attribution.gradients.layers import Layers
from proponent.errors import CurvatureError

TOGETHER = 8
"""Batches of layers with one position whose inputs are multiplied together: their sums are as large as the matrix."""


class CovarianceAccumulator:
    """Running float64 sums of A and S for every layer; they do not depend on the batch size.

    Args:
        layers: The covered layers.
        device: Where the sums live.
    """

    def __init__(self, layers: Layers, device: torch.device | str = "cpu") -> None:
        self._inputs = {n: _zeros(s.groups, s.inputs, s.inputs, device) for n, s in layers.items()}
        self._outputs = {n: _zeros(s.groups, s.out, s.out, device) for n, s in layers.items()}
        self._waiting: dict[str, list[Tensor]] = {name: [] for name in layers}
        self._count = 0

    def update(self, passes: Iterable[LayerGradients], count: int) -> None:
        """Add one batch.

        Args:
            passes: All backward passes of one forward, see `fisher_gradients`; the inputs, which they share,
                are counted once, the output gradients of all passes are summed.
            count: Examples in the batch.
        """
        for index, gradients in enumerate(passes):
            for name, gradient in gradients.items():
                if index == 0:
                    self._add_inputs(name, gradient)
                self._outputs[name] += gradient.output_moment()
        self._count += count

    def _add_inputs(self, name: str, gradient: LayerGradient) -> None:
        if gradient.positions != 1 or gradient.looks_up:
            self._inputs[name] += gradient.input_moment()
            return
        self._waiting[name].append(gradient.inputs[:, :, 0])
        if len(self._waiting[name]) == TOGETHER:
            self._add_waiting(name)

    def _add_waiting(self, name: str) -> None:
        if self._waiting[name]:
            # In float64, or rounding, relative to the largest eigenvalue, would turn the vectors of the smaller ones.
            rows = torch.cat(self._waiting[name]).transpose(0, 1).double()
            self._inputs[name] += rows.mT @ rows
            self._waiting[name].clear()

    def state(self) -> dict[str, Tensor]:
        """The sums by name, ``inputs/<layer>``, ``outputs/<layer>`` and ``count``; not copied."""
        for name in self._waiting:
            self._add_waiting(name)
        state = {f"inputs/{name}": sums for name, sums in self._inputs.items()}
        state |= {f"outputs/{name}": sums for name, sums in self._outputs.items()}
        return state | {"count": torch.tensor(self._count)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of the same layers."""
        for name in self._inputs:
            self._inputs[name].copy_(state[f"inputs/{name}"])
            self._outputs[name].copy_(state[f"outputs/{name}"])
        self._count = int(state["count"])


def eigenbases(state: Mapping[str, Tensor], layers: Layers) -> dict[str, LayerFactors]:
    """K-FAC factors from the state of a `CovarianceAccumulator`: float64 eigh of symmetrised means.

    Raises:
        CurvatureError: If there were no examples, or a layer's covariance is not finite.
    """
    count = int(state["count"])
    if count == 0:
        raise CurvatureError("No examples: the batches must be an iterable that can be read twice.")
    return {name: _layer_basis(name, state, count) for name in layers}


def _layer_basis(name: str, state: Mapping[str, Tensor], count: int) -> LayerFactors:
    in_values, q_in = _eigh(name, "inputs", state[f"inputs/{name}"] / count)
    out_values, q_out = _eigh(name, "output gradients", state[f"outputs/{name}"] / count)
    return LayerFactors(q_out, q_in, out_values.unsqueeze(2) * in_values.unsqueeze(1))


def _eigh(name: str, what: str, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rounding below zero removed, and eigenvectors as columns."""
    if not bool(covariance.isfinite().all()):
        raise CurvatureError(f"Layer {name!r}: the covariance of its {what} is not finite (NaN or infinity).")
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return values.clamp(min=0), vectors


def _zeros(groups: int, rows: int, columns: int, device: torch.device | str) -> Tensor:
    return torch.zeros(groups, rows, columns, dtype=torch.float64, device=device)
