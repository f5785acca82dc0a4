"""A dataset held as two tensors, for training in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proponent.datasets.protocol import ImageDataset, Transform
from proponent.errors import InvalidInputError


def materialise(
    dataset: ImageDataset, transform: Transform, indices: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Transform examples and stack them.

    Args:
        dataset: The examples.
        transform: Maps an image to a tensor; every result must have the same shape.
        indices: Positions to take, in this order; all of them when ``None``.

    Returns:
        Inputs ``[N, C, H, W]`` in the transform's dtype and labels ``[N]`` int64.

    Raises:
        InvalidInputError: If there is nothing to take, or two examples differ in shape.
    """
    chosen = range(len(dataset)) if indices is None else indices
    if len(chosen) == 0:
        raise InvalidInputError("Cannot stack zero examples; expected at least one.", field="indices")
    first, _ = dataset[chosen[0]]
    shape = transform(first)
    inputs = torch.empty((len(chosen), *shape.shape), dtype=shape.dtype)
    labels = torch.empty(len(chosen), dtype=torch.int64)
    for row, index in enumerate(chosen):
        image, label = dataset[index]
        inputs[row] = _of_shape(transform(image), inputs.shape[1:], dataset.example_id(index))
        labels[row] = label
    return inputs, labels


def _of_shape(tensor: Tensor, shape: torch.Size, example_id: str) -> Tensor:
    if tensor.shape != shape:
        raise InvalidInputError(
            f"Example {example_id} has shape {list(tensor.shape)}, expected {list(shape)} like the first; "
            "use a transform that resizes.",
            field=example_id,
        )
    return tensor
