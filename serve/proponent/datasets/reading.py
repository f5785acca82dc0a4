"""All examples of a data set as a model takes them, for training in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from proponent.attribution.inputs import Inputs, RaggedInputs, grouped, stacked
from proponent.datasets.tensors import materialise
from proponent.raw_inputs import kind_of, model_input, pad_of
from proponent.signature import InputKind


def read_all(dataset: Any, transform: Any) -> tuple[Inputs, Tensor]:
    """Transform all examples.

    Args:
        dataset: The examples, at least one: images, texts, records or tensors, each with its label.
        transform: As a spec names it.

    Returns:
        Inputs of N examples and labels ``[N]`` int64.

    Raises:
        InvalidInputError: There are none, or two images differ in shape.
    """
    if len(dataset) == 0 or kind_of(dataset[0][0]) is InputKind.IMAGE:
        return materialise(dataset, transform)
    items = [dataset[position] for position in range(len(dataset))]
    examples = [model_input(transform, raw) for raw, _ in items]
    labels = torch.tensor([int(label) for _, label in items])
    pad = pad_of(transform, kind_of(items[0][0]))
    if pad is None or len(grouped(examples)) == 1:
        return stacked(examples), labels
    return RaggedInputs(examples, pad), labels
