"""What the autograd graph of a forward tells beyond the calls that hooks see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

REENTRANT = "CheckpointFunctionBackward"
"""A part of a model that `torch.utils.checkpoint` computes again in the backward, with ``use_reentrant=True``."""


_PRODUCTS = ("Addmm", "Addbmm", "Baddbmm", "Bmm", "Mm", "Mv", "Dot", "Linear", "Convolution", "AccumulateGrad")
_PASSED = (
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "T", "Transpose", "Permute"),
    *("Clone", "ToCopy", "Alias", "AsStrided", "Index", "Expand", "Cat", "Stack", "Split", "Unbind", "Copy"),
    *("Add", "Sub", "Rsub", "Neg", "Mul", "Div", "Mean", "Sum"),
)


def operations(outputs: Tensor) -> Iterator[Any]:
    """The nodes that a backward from the outputs would run through, each once."""
    waiting = [outputs.grad_fn] if outputs.grad_fn is not None else []
    seen = set[Any](waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def weight_uses(outputs: Tensor, parameters: Mapping[str, Tensor]) -> Counter[str]:
    """How many operations took each parameter as it is, by its name; frozen ones are in no graph."""
    leaves = {get_gradient_edge(value).node: name for name, value in parameters.items() if value.requires_grad}
    return Counter(
        leaves[following]
        for node in operations(outputs)
        for following, _ in node.next_functions
        if following in leaves
    )


def is_reentrant(outputs: Tensor) -> bool:
    """Whether layers inside of a checkpoint are hidden from the graph."""
    return any(node.name() == REENTRANT for node in operations(outputs))


def are_products(outputs: Tensor) -> bool:
    """Whether outputs are products with weights, or sums and multiples of such: nothing bounds them."""
    waiting, seen = [outputs.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        kind = "" if node is None else node.name().rpartition("::")[2].partition("Backward")[0]
        if kind in _PRODUCTS or node in seen:
            continue
        if node is None or kind not in _PASSED:
            return False
        seen.add(node)
        waiting += [following for following, _ in node.next_functions if following is not None]
    return True
