"""Models for exact curvature: in double precision, twice differentiable."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from typing_extensions import override

from proponent.attribution.user_code import blame

_NARROW = (torch.float16, torch.bfloat16, torch.float32)
_NARROWING = (Tensor.float, Tensor.half, Tensor.bfloat16)


class DoublePrecision(TorchFunctionMode):
    """Within it every torch function computes in float64, whatever the precision of its floating arguments.

    A model may hold constants in single precision, make some in its forward, or cast to it: float64 parameters alone
    would then be refused, or rounded on the way.
    """

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        wide_args, wide_kwargs = tree_map(_wide, (args, kwargs or {}))
        return tree_map(_wide, (Tensor.double if func in _NARROWING else func)(*wide_args, **wide_kwargs))


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in _NARROW:
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def in_double(model: nn.Module) -> nn.Module:
    """A copy of a model that computes in float64 throughout; hooks on its layers see the layers' own calls.

    Raises:
        SpecError: The model cannot be copied.
    """
    failed = "exact curvature needs a copy of the model in float64, which fails"
    with blame(failed, "curvature.kind", advice="use curvature.kind ekfac"):
        double = copy.deepcopy(model).double()
    double.forward = _within(double.forward)
    return double


def _within(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def widened(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_wide, (args, kwargs))
        with DoublePrecision():
            return forward(*args, **kwargs)

    return widened


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by plain products: fused kernels have no second derivative, and the fast path not even a first."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def blame_exact_curvature() -> AbstractContextManager[None]:
    """Says of a model that fails in float64, or has no second derivative, what to do instead."""
    return blame(
        "exact curvature fails: the model does not run in float64 or cannot be differentiated twice",
        "curvature.kind",
        advice="use curvature.kind ekfac, or name its last layers in curvature.layers",
    )
