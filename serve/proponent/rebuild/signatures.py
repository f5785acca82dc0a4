"""What the manifest says of a model's inputs: from examples, and from what the transform tells of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from proponent.attribution.gradients.capture import eager
from proponent.attribution.inputs import Example, Inputs, RaggedInputs, Shape, tensors_of
from proponent.errors import SpecError
from proponent.raw_inputs import kind_of, scalars
from proponent.signature import Column, ColumnType, InputKind, InputSignature, TensorSignature

_MODES = {1: "L", 3: "RGB"}


def signature_of(transform: Any, raw: Any, example: Example, shapes: Sequence[Shape] = ()) -> InputSignature:
    """The signature of an example's kind.

    Args:
        transform: May have ``columns`` (each a `Column`, or a mapping of its fields) and ``max_text_length``.
        raw: The example as the data set gives it.
        example: As the model takes it.
        shapes: All that examples were seen with, as `shape_key` tells them, where lengths differ.
    """
    kind = kind_of(raw)
    tensors = tuple(
        TensorSignature(name, str(tensor.dtype).removeprefix("torch."), _open(name, tensor, shapes))
        for name, tensor in tensors_of(example).items()
    )
    shape = tensors[0].shape if isinstance(example, Tensor) else ()
    mode = _MODES.get(shape[0] if len(shape) == 3 else 1, "RGB")
    size: tuple[int, ...] = ()
    if kind is InputKind.IMAGE:
        image = raw if isinstance(raw, Image.Image) else Image.fromarray(raw)
        mode, size = image.mode, image.size
    columns = _columns(transform) if kind is InputKind.RECORD else ()
    longest = int(getattr(transform, "max_text_length", 0) or 0) if kind is InputKind.TEXT else 0
    return InputSignature(shape, mode, size, kind, tensors, columns, longest)


def _open(name: str, tensor: Tensor, shapes: Sequence[Shape]) -> tuple[int, ...]:
    """A shape with -1 where it differs among the examples; everywhere, where none does though it may."""
    if not shapes:
        return tuple(tensor.shape)
    seen = [dict(shape)[name] for shape in shapes]
    if len(set(shapes)) == 1:
        return (-1,) * tensor.ndim
    return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*seen, strict=True))


def _columns(transform: Any) -> tuple[Column, ...]:
    given = getattr(transform, "columns", None) or ()
    try:
        return tuple(each if isinstance(each, Column) else _column(each) for each in given)
    except (TypeError, ValueError, KeyError) as error:
        raise SpecError(
            f"key 'transform': its columns are {given!r}, expected a Column each, or a mapping of name, type, "
            f"categories and optional: {error}",
            field="transform",
        ) from error


def _column(given: Mapping[str, Any]) -> Column:
    values = dict(given)
    kind = ColumnType(values.pop("type", "any"))
    return Column(str(values.pop("name")), kind, tuple(values.pop("categories", ())), **values)


def with_vocabularies(signature: InputSignature, model: nn.Module, inputs: Inputs) -> InputSignature:
    """The signature with bounds of the tensors that an embedding looks up: what is outside of them makes it fail.

    Args:
        signature: Without them.
        model: Called once.
        inputs: Some examples, [B, ...] of one shape.
    """
    bounds = _bounds_of_ids(model, inputs)
    tensors = tuple(
        replace(each, min_value=bounds[each.name][0], max_value=bounds[each.name][1]) if each.name in bounds else each
        for each in signature.tensors
    )
    return replace(signature, tensors=tensors)


def with_flags(signature: InputSignature, wholes: Mapping[str, tuple[int, int]]) -> InputSignature:
    """The signature with bounds of masks: tensors of 0 and 1 in every example, beside another one of their shape.

    What is made of a record is not bounded: a count of a table may be larger than any seen.

    Args:
        signature: Without them.
        wholes: Smallest and largest value of each tensor of whole numbers in the training set.
    """
    if signature.kind is InputKind.RECORD:
        return signature
    shapes = Counter(each.shape for each in signature.tensors)
    tensors = tuple(
        replace(each, min_value=0, max_value=1)
        if wholes.get(each.name) == (0, 1) and shapes[each.shape] > 1
        else each
        for each in signature.tensors
    )
    return replace(signature, tensors=tensors)


def with_whole_columns(signature: InputSignature, raws: Sequence[Any]) -> InputSignature:
    """The signature with the columns whose numbers are whole in all of some records."""
    if signature.kind is not InputKind.RECORD:
        return signature
    kinds: dict[str, set[type]] = {}
    for record in map(scalars, raws):
        for name, value in record.items():
            if value is not None:
                kinds.setdefault(name, set()).add(type(value))
    return replace(signature, whole_columns=tuple(sorted(name for name, seen in kinds.items() if seen == {int})))


def with_axes(signature: InputSignature, examples: Sequence[Example]) -> InputSignature:
    """The signature with the axes that have one size in all examples, which are not padded yet."""
    numbers: dict[object, int] = {}

    def number(tensor: TensorSignature, axis: int) -> int:
        sizes = tuple(tensors_of(example)[tensor.name].shape[axis] for example in examples)
        # Of axes that never change, the first and the second may be as long as each other by chance.
        place = axis if len(set(sizes)) == 1 else None
        is_open = tensor.shape[axis] == -1
        return numbers.setdefault((sizes, place) if is_open else (tensor.name, axis), len(numbers))

    def numbered(tensor: TensorSignature) -> TensorSignature:
        made = [tensors_of(example).get(tensor.name) for example in examples]
        if not made or any(each is None or each.ndim != len(tensor.shape) for each in made):
            return tensor
        return replace(tensor, axes=tuple(number(tensor, axis) for axis in range(len(tensor.shape))))

    return replace(signature, tensors=tuple(map(numbered, signature.tensors))) if signature.is_named else signature


def _bounds_of_ids(model: nn.Module, inputs: Inputs) -> dict[str, tuple[int, int]]:
    """Of each tensor that embeddings look up, as it is or shifted by a number, by its name."""
    inputs = inputs.to(next(model.parameters()).device)
    assert not isinstance(inputs, RaggedInputs)  # they have one shape
    given = {name: tensor.data_ptr() for name, tensor in tensors_of(inputs).items()}
    wholes = {name: tensor for name, tensor in tensors_of(inputs.clone()).items() if not tensor.is_floating_point()}
    found: dict[str, tuple[int, int]] = {}

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or not args:
            return
        for name, ids in wholes.items():
            shift = _shift(ids, args[0])
            if shift is not None and (_varies(ids) or args[0].data_ptr() == given[name]):
                low, high = found.get(name, (-shift, module.num_embeddings - 1 - shift))
                found[name] = max(low, -shift), min(high, module.num_embeddings - 1 - shift)

    with ExitStack() as hooks, torch.no_grad(), eager():
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                hooks.callback(module.register_forward_pre_hook(look).remove)
        model(inputs)
    return found


def _varies(tensor: Tensor) -> bool:
    """Whether it holds more than one number: else it may be equal to another tensor by chance."""
    return bool((tensor != tensor.flatten()[0]).any())


def _shift(ids: Tensor, looked_up: Any) -> int | None:
    """What was added to ids before they were looked up, tokens first or not; None where it is not one number."""
    if not isinstance(looked_up, Tensor) or not ids.numel():
        return None
    for given in (looked_up, looked_up.mT) if looked_up.ndim == 2 else (looked_up,):
        if given.shape == ids.shape:
            shifts = given.long() - ids.long()
            first = int(shifts.flatten()[0])
            if bool((shifts == first).all()):
                return first
    return None
