"""From an example as a data set or a caller gives it to what the model is called with, by the spec's transform.

The transform of texts and records returns a tensor, or a mapping from the names of the model's arguments to tensors,
each without a batch dimension. Where lengths differ it has a method ``pad`` that makes a batch of a list of what it
returned, as tokenizers and collators of transformers do. It is applied to each example *alone*: an example is always
computed at the same length, and so has the same gradient whatever it is batched with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from proponent.attribution.inputs import Example, NamedInputs, Pad, as_inputs, padded
from proponent.signature import InputKind

_MISSING = ("NAType", "NaTType")


def kind_of(raw: Any) -> InputKind:
    """Which kind of input an example is, by its type."""
    if isinstance(raw, Tensor):
        return InputKind.TENSOR
    if isinstance(raw, str):
        return InputKind.TEXT
    if not isinstance(raw, Mapping):
        return InputKind.IMAGE
    arrays = [isinstance(value, Tensor | np.ndarray) for value in raw.values()]
    return InputKind.TENSORS if arrays and all(arrays) else InputKind.RECORD


def pad_of(transform: Any, kind: InputKind) -> Pad | None:
    """The transform's padding rule; images have none."""
    found = getattr(transform, "pad", None)
    return found if callable(found) and kind is not InputKind.IMAGE else None


def model_input(transform: Any, raw: Any) -> Example:
    """What the model takes of one example; tensors are taken as they are. Raises whatever the transform raises."""
    kind = kind_of(raw)
    if kind is InputKind.IMAGE:
        image = raw if isinstance(raw, Image.Image) else Image.fromarray(raw)
        return torch.as_tensor(transform(image)).detach().to(torch.float32, copy=True)
    found, pad = unpadded_input(transform, raw), pad_of(transform, kind)
    return in_single(padded([found], pad)[0] if pad else found)


def unpadded_input(transform: Any, raw: Any) -> Example:
    """What the transform makes of a text or a record, before it is padded; tensors are taken as they are."""
    kind = kind_of(raw)
    given = scalars(raw) if kind is InputKind.RECORD else raw
    return as_inputs(given if kind in (InputKind.TENSOR, InputKind.TENSORS) else transform(given))


def in_single(example: Example) -> Example:
    """Floating-point numbers in single precision, as models have them; copied, as a data set may fill one buffer."""
    if isinstance(example, NamedInputs):
        return example.map(_in_single)
    return _in_single(example)


def _in_single(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def plain(record: Mapping[Any, Any]) -> dict[str, Any]:
    """A record with NumPy's scalars as Python's."""
    return {str(name): value.item() if isinstance(value, np.generic) else value for name, value in record.items()}


def scalars(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record of a data set with plain values: None for what pandas marks as missing (NaN, NA, NaT)."""
    return {name: None if _is_missing(value) else value for name, value in plain(record).items()}


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    return is_nan or type(value).__name__ in _MISSING  # by name: pandas is not a dependency


def check_scalars(record: Mapping[Any, Any]) -> None:
    """Raises ValueError where a column holds what no request can."""
    for name, value in scalars(record).items():
        if value is not None and not isinstance(value, str | bool | int | float):
            raise ValueError(
                f"column {name!r} holds {value!r:.80} of type {type(value).__name__}, which no request can: expected "
                "a number, a text, true, false or None"
            )
