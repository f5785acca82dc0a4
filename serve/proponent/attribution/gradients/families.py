"""Which modules are layers whose gradients can be taken, by family, and the form of their parameters as a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


class Form(Enum):
    """How a layer's parameters lie in its matrix ``[G, o, i]``.

    Attributes:
        ROWS: The weight is ``[G * o, i, ...]``; the bias, if any, is the last column.
        COLUMNS: The weight is ``[G * i, o, ...]``, inputs first; the bias, if any, is the last column.
        VECTOR: Weight and bias one after the other are the only column: all outputs, one input. The layer's curvature
            in an eigenbasis of Kronecker form is then that of the whole vector, exactly.
    """

    ROWS = "rows"
    COLUMNS = "columns"
    VECTOR = "vector"


# By exact type: a subclass may override forward, and parametrised modules are subclasses made on the fly.
_FAMILIES: Mapping[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.MultiheadAttention: "multi_head_attention",
    nn.LayerNorm: "layer_norm",
    nn.RMSNorm: "rms_norm",
    nn.GroupNorm: "group_norm",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
    nn.Embedding: "embedding",
}
TRANSPOSED_LINEAR = "transposed_linear"
"""The Conv1D of transformers, a linear layer whose weight is ``[in, out]``."""
EMBEDDING, BATCH_NORM = "embedding", "batch_norm"
_COLUMNS = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d", EMBEDDING, TRANSPOSED_LINEAR})
_VECTORS = frozenset({"layer_norm", "rms_norm", "group_norm", BATCH_NORM})

FAMILIES = tuple(dict.fromkeys((*_FAMILIES.values(), TRANSPOSED_LINEAR)))
DEFAULT_FAMILIES = tuple(family for family in FAMILIES if family not in (BATCH_NORM, EMBEDDING))
"""What is covered unless a spec says otherwise."""

PROJECTIONS = ("query", "key", "value")
_TENSORS = ("weight", "bias", "in_proj_weight", *(f"{which[0]}_proj_weight" for which in PROJECTIONS), "in_proj_bias")


def family_of(module: nn.Module) -> str | None:
    """The family of a module; None where its parameters are not a layer's that can be covered."""
    family = _FAMILIES.get(type(module)) or (TRANSPOSED_LINEAR if _is_transposed_linear(module) else None)
    if isinstance(module, nn.MultiheadAttention):
        return None if derived_tensors(module) else family
    if family is None or module._parameters.get("weight") is None:
        return None
    return family if _is_plain(module) else None


def derived_tensors(module: nn.Module) -> list[str]:
    """Weights and biases that a re-parametrisation, such as weight_norm or pruning, makes of other parameters."""
    # By public names: of what TorchScript has, the others cannot be read.
    held = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    own = {name for name, _ in held}
    return [name for name in _TENSORS if name not in own and isinstance(getattr(module, name, None), Tensor)]


def form_of(family: str) -> Form:
    """How the parameters of a family lie in a matrix."""
    if family in _VECTORS:
        return Form.VECTOR
    return Form.COLUMNS if family in _COLUMNS else Form.ROWS


def is_output_projection(module: nn.Module) -> bool:
    """Whether an attention applies a module's weight itself, as it does with the one that it makes."""
    return type(module) is NonDynamicallyQuantizableLinear and module._parameters.get("weight") is not None


def _is_transposed_linear(module: nn.Module) -> bool:
    """By name and form: transformers is not a dependency."""
    if type(module).__name__ != "Conv1D":
        return False
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    width = getattr(module, "nf", None)
    if weight is None or bias is None:
        return False
    return weight.ndim == 2 and weight.shape[1] == width and tuple(bias.shape) == (width,)


def _is_plain(module: nn.Module) -> bool:
    """Whether the gradient of one example is its own, and a forward leaves the parameters as they are."""
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    return not isinstance(module, _BatchNorm) or module.running_mean is not None
