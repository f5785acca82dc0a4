"""Attention that tells of the linear maps that it applies itself.

`nn.MultiheadAttention` multiplies by its weights within one function of torch, where no hook of a module sees it. So
torch's own function runs, as it is but for the name ``linear`` in it, which tells of its calls. Outputs and gradients
are those of the function; the fast path, which has no gradient, is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from proponent.attribution.gradients.layers import LayerShape

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Inputs, weight and bias to outputs, as `torch.nn.functional.linear`."""
Arrange = Callable[[Tensor], Tensor]
"""From outputs as an attention lays them out to one layer's, with the batch first."""


class Projections:
    """The covered linear maps of one attention, by their weights.

    Args:
        model: Holds the attention.
        layers: The maps.
    """

    def __init__(self, model: nn.Module, layers: Iterable[LayerShape]) -> None:
        parts = {layer.name: layer.weight for layer in layers}
        self._weights = {name: (model.get_parameter(part.name), part.rows) for name, part in parts.items()}
        self._batch = 0

    def called(self, inputs: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Arrange]]:
        """What one product speaks of.

        Args:
            inputs: ``[T, B, i]``; of the map to outputs ``[T * B, i]``.
            weight: Its weight, or rows of it.

        Returns:
            The inputs ``[B, T, i]``, and how each layer's outputs are found in those of the product.
        """
        if inputs.ndim == 3:
            self._batch = inputs.shape[1]
        found = {
            name: self._arrangement(rows, first)
            for name, (whole, rows) in self._weights.items()
            if (first := _first_row(whole, weight)) is not None
            and (rows is None or first <= rows[0] < first + weight.shape[0])
        }
        return self._batch_first(inputs), found

    def _arrangement(self, rows: tuple[int, int] | None, first: int) -> Arrange:
        columns = slice(None) if rows is None else slice(rows[0] - first, rows[1] - first)
        return lambda outputs: self._batch_first(outputs)[..., columns]

    def _batch_first(self, values: Tensor) -> Tensor:
        return values.reshape(-1, self._batch, values.shape[-1]).transpose(0, 1)


def attending_by(module: nn.MultiheadAttention, linear: Linear) -> Callable[..., Any]:
    """A forward of the module whose linear maps are applied by another function."""
    names = {"linear": linear, "has_torch_function": lambda _: False}
    inner = {name: _rebound(vars(F)[name], names) for name in ("_in_projection_packed", "_in_projection")}
    attention = _rebound(F.multi_head_attention_forward, {**names, **inner})
    functional = SimpleNamespace(**{**vars(F), attention.__name__: attention})
    forward = _rebound(type(module).forward, {"F": functional, "_arg_requires_grad": lambda _: True})
    return MethodType(forward, module)


def _first_row(weight: Tensor, part: Tensor) -> int | None:
    """Where in a weight the rows of a tensor begin; None where it is not a view of it."""
    if part is not weight and part._base is not weight:
        return None
    return int((part.storage_offset() - weight.storage_offset()) // weight.stride(0))


def _rebound(function: Callable[..., Any], names: dict[str, Any]) -> FunctionType:
    """A function with other values for some of the global names in it."""
    assert isinstance(function, FunctionType)
    found = FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__
    )
    found.__kwdefaults__ = function.__kwdefaults__
    return found
