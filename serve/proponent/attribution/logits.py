"""The scores among what a model returns: a tensor, a tuple that begins with it, or an object that calls it logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def returning_logits(model: M) -> M:
    """Makes a model return its logits alone, wherever it is called from; copies of it do as well.

    What Hugging Face's classifiers return has ``.logits``, as have those of torchvision with auxiliary outputs. Of a
    tuple or a list the first is taken. Anything else stays as it is, for the checks of outputs to refuse.
    """
    model.register_forward_hook(_replace)
    return model


def _replace(_: nn.Module, __: tuple[Any, ...], returned: Any) -> Any:
    """What a forward hook gives back takes the place of the output; None leaves it."""
    return None if isinstance(returned, Tensor) else _logits(returned)


def _logits(returned: Any) -> Any:
    if isinstance(returned, Mapping):
        return returned.get("logits")
    found = getattr(returned, "logits", None)
    if found is None and isinstance(returned, tuple | list) and returned:
        return returned[0]
    return found
