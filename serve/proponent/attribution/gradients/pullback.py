"""Vector-Jacobian products of a recorded forward, at the price of their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


def pulled_back(
    outputs: Tensor,
    inputs: Sequence[Tensor] | Sequence[GradientEdge],
    seed: Tensor,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradient ``seed^T d outputs / d inputs``, as `torch.autograd.grad` with ``grad_outputs`` gives it.

    Handed ``grad_outputs``, that function imports PyTorch's symbolic shapes and SymPy to compare two shapes: a second
    and 35 MB of every worker. A scalar whose gradient at the outputs is the seed needs none.

    Args:
        outputs: ``[B, ...]``, with the graph that led to them.
        inputs: Tensors or places in that graph.
        seed: The gradient at the outputs, of their shape; cast to their dtype.
        retain_graph: Whether the graph is kept for another product.
        create_graph: Whether the result may be differentiated itself.

    Returns:
        A gradient for each input; None where the outputs do not depend on it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        scalar = _Seeded.apply(outputs, seed.to(outputs))
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        scalar, inputs, retain_graph=retain_graph or create_graph, create_graph=create_graph, allow_unused=True
    )
    return found


class _Seeded(torch.autograd.Function):
    """A scalar, 0, whose gradient at the outputs is the seed."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, seed: Tensor) -> Tensor:
        ctx.seed = seed
        return outputs.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        return ctx.seed, None
