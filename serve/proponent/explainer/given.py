"""From what a caller gives to what the model is called with, or why it cannot take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proponent.attribution.inputs import Example, NamedInputs, cast, padded, tensors_of
from proponent.errors import InvalidInputError
from proponent.input_checks import (
    check_kind,
    check_names,
    check_record,
    check_sizes,
    check_text,
    check_values,
    only_tensor,
    wrong_shape,
)
from proponent.raw_inputs import kind_of, model_input, pad_of, plain
from proponent.signature import InputKind, InputSignature, TensorSignature
from proponent.text import Text

TEXT, RECORD = "text", "record"


def accepted(value: object, signature: InputSignature, transform: Any = None) -> Example | InvalidInputError:
    """One input as the model takes it, or why it cannot.

    Args:
        value: A tensor; tensors by name, as `NamedInputs` or a mapping of arrays; a `Text`; or a record, a mapping of
            scalars. Whether floats are finite is not looked at in a tensor alone: the model's output tells.
        signature: What the model takes.
        transform: The spec's, for texts and records, and for its rule of padding.
    """
    try:
        return _taken(value, signature, transform)
    except InvalidInputError as error:
        return error


def _taken(value: object, signature: InputSignature, transform: Any) -> Example:
    if isinstance(value, Text):
        return text_input(value.text, signature, transform)
    if isinstance(value, NamedInputs):
        return named_input(cast(value, torch.float32).tensors, signature, transform)
    if isinstance(value, Mapping):
        if kind_of(value) is InputKind.RECORD:
            return record_input(plain(value), signature, transform)
        return _taken(
            NamedInputs({name: torch.as_tensor(each) for name, each in value.items()}), signature, transform
        )
    return _tensor(value, signature, transform)


def text_input(text: str, signature: InputSignature, transform: Any) -> Example:
    """A text as the model takes it; raises InvalidInputError naming ``text``."""
    check_kind(TEXT, signature)
    check_text(text, signature)
    return _transformed(text, signature, transform, TEXT)


def record_input(record: Mapping[str, object], signature: InputSignature, transform: Any) -> Example:
    """A record as the model takes it; raises InvalidInputError naming the column."""
    check_kind(RECORD, signature)
    check_record(record, signature)
    whole = {name for name in signature.whole_columns if isinstance(record.get(name), float)}
    values = {name: _whole(value) if name in whole else value for name, value in record.items()}
    return _transformed(values, signature, transform, RECORD)


def _whole(value: Any) -> Any:
    """A number as it is in a column of whole ones; one that is not whole stays."""
    return int(value) if value == int(value) else value


def named_input(tensors: Mapping[str, Tensor], signature: InputSignature, transform: Any) -> Example:
    """Tensors by name as the model takes them; raises InvalidInputError naming ``tensors.NAME``."""
    check_kind("tensors", signature)
    expected = check_names(list(tensors), signature)
    ordered = {name: tensors[name] for name in expected}
    for name, tensor in ordered.items():
        _check(tensor, expected[name], f"tensors.{name}")
    check_sizes({name: tensor.shape for name, tensor in ordered.items()}, signature)
    return _alone(NamedInputs({name: tensor.detach() for name, tensor in ordered.items()}), signature, transform)


def _tensor(value: object, signature: InputSignature, transform: Any) -> Example:
    expected = only_tensor(signature)
    wants_floats = expected.dtype == "float32"
    if not isinstance(value, Tensor) or (wants_floats and not value.is_floating_point()):
        given = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
        what = "a tensor of floats" if wants_floats else f"a tensor of {expected.dtype}"
        raise InvalidInputError(f"input is {given}, expected {what}", field="input")
    check_kind("tensor", signature)
    if wants_floats and tuple(value.shape) == expected.shape:
        return value.detach().float()
    _check(value.float() if wants_floats else value, expected, "input")
    return _alone(value.detach().float() if wants_floats else value.detach(), signature, transform)


def _check(tensor: Tensor, expected: TensorSignature, path: str) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != expected.dtype:
        raise InvalidInputError(
            f"{_named(expected)} has dtype {dtype!r}, expected {expected.dtype!r}",
            field=path,
            reason="TENSOR_WRONG_DTYPE",
        )
    if message := wrong_shape(tensor.shape, expected):
        raise InvalidInputError(f"{_named(expected)} {message}", field=path, reason="TENSOR_WRONG_SHAPE")
    if expected.name or not tensor.is_floating_point():
        check_values(np.asarray(tensor.detach().cpu().numpy()), expected, path)


def _named(expected: TensorSignature) -> str:
    return f"tensor {expected.name!r}" if expected.name else "input"


def _alone(example: Example, signature: InputSignature, transform: Any) -> Example:
    """Padded by the transform's rule, as what went through the transform is."""
    pad = pad_of(transform, signature.kind) if signature.kind else None
    return padded([example], pad)[0] if pad else example


def _transformed(raw: Any, signature: InputSignature, transform: Any, field: str) -> Example:
    try:
        found = model_input(transform, raw)
    except InvalidInputError:
        raise
    except KeyError as error:
        raise _unusable(f"the transform looks for {error} in vain", _sought(raw, error, field)) from error
    except Exception as error:  # the user's code may raise anything
        raise _unusable(f"the transform refuses it: {error}", field) from error
    for name, tensor in tensors_of(found).items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInputError(
                "the transform makes NaN or infinite values of it" + (f" in {name!r}" if name else ""),
                field=field,
                reason=f"{field.upper()}_NOT_FINITE",
            )
    _check_made(found, signature, transform, field)
    return found


def _sought(raw: Any, error: KeyError, field: str) -> str:
    """The column that a transform misses, or whose value it does not know."""
    if field != RECORD or not error.args:
        return field
    [sought] = error.args[:1]
    holders = [name for name, value in raw.items() if type(value) is type(sought) and value == sought]
    if len(holders) == 1:
        return f"{field}.{holders[0]}"
    return field if holders or not isinstance(sought, str) else f"{field}.{sought}"


def _check_made(found: Example, signature: InputSignature, transform: Any, field: str) -> None:
    """Refuses what the model cannot take, though the transform made it."""
    made, expected = tensors_of(found), {tensor.name: tensor for tensor in signature.tensors}
    try:
        if made.keys() != expected.keys():
            raise InvalidInputError(f"the transform makes tensors {sorted(made)} of it, expected {sorted(expected)}")
        for name, tensor in made.items():
            _check(tensor, expected[name], field)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{field} cannot be used: {error.message}", field=field, reason=error.reason
        ) from None
    longest = _longest(transform)
    size = max((size for tensor in made.values() for size in tensor.shape), default=0)
    if longest and size > longest:
        raise InvalidInputError(
            f"{field} is {size} tokens long, expected at most {longest}", field=field, reason="TEXT_TOO_LONG"
        )


def _longest(transform: Any) -> int:
    """Most tokens, as tokenizers of transformers tell it; they put a huge number for none."""
    given = getattr(transform, "model_max_length", 0)
    return int(given) if isinstance(given, int) and 0 < given < 1 << 30 else 0


def _unusable(message: str, field: str) -> InvalidInputError:
    kind = field.partition(".")[0]
    return InvalidInputError(f"{kind} cannot be used: {message}", field=field, reason=f"{kind.upper()}_UNUSABLE")
