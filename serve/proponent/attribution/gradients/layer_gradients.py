"""A layer's gradients for a batch of examples, as the factors that they come in.

The gradient of one example is ``d^T a``, summed over the positions t at which the weights are applied: a are the
layer's inputs and d the gradients of the loss with respect to its outputs. Most of what attribution asks of a
gradient (norms, sums, projections) is cheaper from the factors than from the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor, nn

from proponent.attribution.gradients.layers import LayerShape
from proponent.attribution.gradients.patch_moment import has_fast_moment, patch_moment
from proponent.attribution.gradients.patches import (
    NARROW,
    counts,
    input_rows,
    looked_up,
    output_rows,
    patch_products,
    weight_gradients,
)

COPIED = 2
"""Cost of a multiplication on patches that were copied out, or in a convolution of one example, beside a product."""


AT_ONCE = 1 << 20
"""Numbers of dense gradients: the system takes the pages of larger temporaries back, and filling new ones costs more
than what is computed on them."""


class Order(Enum):
    """What is multiplied first of ``left^T d^T a right``."""

    BOTH = auto()
    INPUTS = auto()
    DELTAS = auto()
    DENSE = auto()


@dataclass(frozen=True)
class LayerUse:
    """One application of a layer: what `input_rows` and `output_rows` take for its inputs and output gradients.

    These are the layer's raw inputs, and the gradient of the summed loss at its raw outputs, but for the families of
    `proponent.attribution.gradients.uses`.
    """

    module: nn.Module
    inputs: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class LayerGradient:
    """Gradients of one layer for B examples, kept as factors.

    Several uses of the layer in one forward are concatenated along T; a layer that took no part has T = 0 and
    a zero gradient. Patches of convolutions are unfolded when asked for, not stored.

    Attributes:
        shape: The layer.
        uses: Its applications in the forward.
        anchor: ``[B, 0]``; fixes batch size, dtype and device.
        may_pad: Whether positions may be padding; then those at which there is no gradient count for nothing.
    """

    shape: LayerShape
    uses: tuple[LayerUse, ...]
    anchor: Tensor
    may_pad: bool = False

    @property
    def positions(self) -> int:
        """T; with one position each gradient is an outer product."""
        return sum(output_rows(use.module, use.deltas).shape[2] for use in self.uses)

    @property
    def inputs(self) -> Tensor:
        """a, ``[B, G, T, i]``, the last column being ones when there is a bias."""
        width = self.shape.inputs - self.shape.has_bias_column
        rows = self._join([input_rows(use.module, use.inputs)[..., :width] for use in self.uses], width)
        if not self.shape.has_bias_column:
            return rows
        # Transposed, as patches lie in memory: the copy is then one of whole blocks.
        columns = rows.mT
        return torch.cat([columns, columns.new_ones(*columns.shape[:2], 1, columns.shape[3])], dim=2).mT

    @property
    def deltas(self) -> Tensor:
        """d, ``[B, G, T, o]``."""
        return self._join([output_rows(use.module, use.deltas) for use in self.uses], self.shape.out)

    def dense(self) -> Tensor:
        """Gradient ``d^T a`` of each example, ``[B, G, o, i]``; see `unflatten` for its order."""
        if not (self._overlaps and self.anchor.device.type == "cpu"):
            return self.deltas.mT @ self.inputs
        # One example at a time is faster on a processor, and slow where every call is a kernel to be launched.
        weights = torch.stack([weight_gradients(use.module, use.inputs, use.deltas) for use in self.uses])
        total = weights.sum(dim=0) if len(weights) > 1 else weights[0]
        if not self.shape.has_bias:
            return total
        return torch.cat([total, self.deltas.sum(dim=2)[..., None]], dim=3)

    def inputs_times(self, right: Tensor) -> Tensor:
        """``a right``, ``[B, G, T, s]``, for ``right`` [G, i, s]."""
        if self.looks_up:
            found = [looked_up(use.module, use.inputs, right) for use in self.uses]
            return self._join(found, right.shape[2])
        if not self._overlaps:
            return times(self.inputs, right)
        has_bias = self.shape.has_bias
        kernels, offsets = (right[:, :-1], right[:, -1]) if has_bias else (right, None)
        products = [patch_products(use.module, use.inputs, kernels, offsets) for use in self.uses]
        return self._join(products, right.shape[2])

    def deltas_times(self, left: Tensor) -> Tensor:
        """``left^T d^T``, ``[B, G, r, T]``, for ``left`` [G, o, r]."""
        if self._overlaps:
            return left.mT @ self.deltas.mT
        return times(self.deltas, left).mT

    def input_moment(self) -> Tensor:
        """Sum over examples and positions of ``a a^T``, ``[G, i, i]``."""
        if self.looks_up:
            return torch.stack([counts(use.module, use.inputs) for use in self.uses]).sum(dim=0).diag()[None]
        if self.may_pad:
            inputs = self.inputs * self._counting[..., None]
            return sum_of_products(inputs, inputs)
        has_weight, on_cpu = self.shape.has_weight, self.anchor.device.type == "cpu"
        if not (has_weight and on_cpu and self.uses and all(has_fast_moment(use.module) for use in self.uses)):
            inputs = self.inputs
            return sum_of_products(inputs, inputs)
        has_bias = self.shape.has_bias
        return torch.stack([patch_moment(u.module, u.inputs, has_bias=has_bias) for u in self.uses]).sum(0)[None]

    def output_moment(self) -> Tensor:
        """Sum over examples of the mean over positions of ``d d^T``, ``[G, o, o]``."""
        deltas = self.deltas
        if not self.may_pad:
            return sum_of_products(deltas, deltas) / max(deltas.shape[2], 1)
        positions = self._counting.sum(dim=2).clamp(min=1)
        deltas = deltas / positions.to(deltas.dtype).sqrt()[..., None, None]
        return sum_of_products(deltas, deltas)

    @property
    def _counting(self) -> Tensor:
        """The positions that have a gradient, [B, G, T] bool."""
        return (self.deltas != 0).any(dim=3)

    def tensors(self) -> Iterator[Tensor]:
        """What takes memory."""
        for use in self.uses:
            yield from (use.inputs, use.deltas)

    def examples(self, some: slice) -> LayerGradient:
        """The gradients of some of the examples."""
        uses = tuple(LayerUse(use.module, use.inputs[some], use.deltas[some]) for use in self.uses)
        return LayerGradient(self.shape, uses, self.anchor[some], self.may_pad)

    def slices(self) -> list[slice]:
        """Parts of the examples whose dense gradients stay in a processor's caches; all at once on other devices."""
        in_parts = self.anchor.device.type == "cpu" and self.positions > 1
        return slices_of(len(self.anchor), self.shape.numel if in_parts else 0)

    def sum_and_squares(self) -> tuple[Tensor, Tensor]:
        """Sum of the gradients over the batch, ``[G, o, i]``, and the squared norm of each, ``[B]`` float64."""
        if self.positions == 1:
            deltas, inputs = self.deltas, self.inputs
            left, right = (rows.double().square().sum(dim=(2, 3)) for rows in (deltas, inputs))
            return sum_of_products(deltas, inputs), (left * right).sum(dim=1)
        dense = self.dense()
        return dense.sum(dim=0), squared_norms(dense)

    def project(self, left: Tensor, right: Tensor) -> Tensor:
        """``left^T (d^T a) right`` in the cheapest order.

        Args:
            left: ``[G, o, r]``.
            right: ``[G, i, s]``.

        Returns:
            ``[B, G, r, s]``.
        """
        return projected([self], left, right)[0]

    def cheapest(self, r: int, s: int) -> Order:
        """The order of products for `project`, given how many columns left and right have."""
        out, width, positions = self.shape.out, self.shape.inputs, self.positions
        copied = COPIED if self._overlaps else 1
        alone = 1 if width <= NARROW * 9 else copied
        costs = {
            Order.DENSE: alone * positions * out * width + out * s * (width + r),
            Order.DELTAS: positions * r * (out + copied * width) + r * width * s,
            Order.INPUTS: positions * s * (out + width) + r * out * s,
            Order.BOTH: positions * (out * r + width * s + r * s),
        }
        return Order.BOTH if self.looks_up else min(costs, key=costs.__getitem__)

    @property
    def _overlaps(self) -> bool:
        """Whether rows of inputs are patches that share their numbers: to be copied out, or left where they are."""
        return self.shape.has_weight and any(
            isinstance(use.module, nn.Conv2d) and tuple(use.module.kernel_size) != (1, 1) for use in self.uses
        )

    @property
    def looks_up(self) -> bool:
        """Whether rows of inputs hold one 1 each, at an index: products with them are rows of the other factor."""
        return bool(self.uses) and isinstance(self.uses[0].module, nn.Embedding)

    def _join(self, rows: list[Tensor], width: int) -> Tensor:
        if not rows:
            return self.anchor.new_zeros(self.anchor.shape[0], self.shape.groups, 0, width)
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)


def projected(gradients: Sequence[LayerGradient], left: Tensor, right: Tensor) -> list[Tensor]:
    """``left^T (d^T a) right`` of gradients with the same inputs, ``[B, G, r, s]`` each, see `LayerGradient.project`.

    The order is the cheapest for one of them, so that each is the same alone.
    """
    order = gradients[0].cheapest(left.shape[2], right.shape[2])
    if order is Order.DELTAS:
        return [gradient.deltas_times(left) @ gradient.inputs @ right for gradient in gradients]
    if order is Order.DENSE:
        return [two_sided(left, gradient.dense(), right) for gradient in gradients]
    inputs = gradients[0].inputs_times(right)
    if order is Order.BOTH:
        return [gradient.deltas_times(left) @ inputs for gradient in gradients]
    return [left.mT @ (gradient.deltas.mT @ inputs) for gradient in gradients]


def two_sided(left: Tensor, dense: Tensor, right: Tensor) -> Tensor:
    """``left^T g right`` of dense gradients ``[B, G, o, i]``, ``[B, G, r, s]``."""
    product: Tensor = left.mT @ times(dense, right)
    return product


def slices_of(count: int, size: int) -> list[slice]:
    """Parts of so many examples that hold ``AT_ONCE`` numbers or one example; all at once where ``size`` is zero."""
    some = max(AT_ONCE // size if size else count, 1)
    return [slice(start, start + some) for start in range(0, count, some)]


LayerGradients = dict[str, LayerGradient]


def sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """Sum of ``l^T r`` over the batch: ``[B, G, T, k]`` and ``[B, G, T, i]`` to ``[G, k, i]``."""
    if left.shape[2] >= max(left.shape[3], right.shape[3]):
        return (left.mT @ right).sum(dim=0)
    long_left, long_right = (rows.transpose(0, 1).flatten(1, 2) for rows in (left, right))
    product: Tensor = long_left.mT @ long_right
    return product


def times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Product of rows ``[B, G, T, i]`` with each group's matrix ``[G, i, s]``: ``[B, G, T, s]``.

    Few rows of each example become one large product, for which they are copied if need be: a batch of small
    products would read the matrix once an example.
    """
    if matrix.shape[0] > 1 or (rows.shape[2] >= matrix.shape[2] and not rows.is_contiguous()):
        return rows @ matrix
    product: Tensor = rows.flatten(0, 2) @ matrix[0]
    return product.reshape(*rows.shape[:3], matrix.shape[2])


def flat_gradients(gradients: LayerGradients) -> Tensor:
    """Dense gradients of all layers side by side, ``[B, P]``, in the order of the layers."""
    return torch.cat([gradient.dense().flatten(1) for gradient in gradients.values()], dim=1)


def squared_norms(values: Tensor) -> Tensor:
    """Of each entry of the first dimension, [B, ...] to [B]; entries below 1e-19 throughout count as zero."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.double().square()


def summed_squares(values: Tensor) -> Tensor:
    """Sum over the first dimension, [B, ...] to [...].

    The values are divided by the largest of them first, so that squares of small numbers do not underflow; a
    sum in float64 from the start would take several times as long.
    """
    largest = torch.maximum(values.amax(), -values.amin()).clamp(min=torch.finfo(values.dtype).tiny)
    return (values / largest).square_().sum(dim=0).double() * largest.double().square()
