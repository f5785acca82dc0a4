"""The inputs that teachers are asked about: inputs without labels, and mixtures of moved examples.

Training examples themselves make poor pseudo-queries, as every model has fitted them. A mixture of two of them, each
moved a little, is an input that none has seen. Where the spec names unlabelled inputs these come first, as they are,
and the mixtures draw on them too. Inputs of whole numbers (token ids) are neither mixed nor moved,
and neither are several tensors by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.inputs import Example, Inputs, content, described, form_of, shape_key, sizes
from proponent.classifier import Classifier, call_factory
from proponent.errors import SpecError
from proponent.rebuild.filtered_dataset import example_id_of, source_of
from proponent.rebuild.training_set import TrainingSet

KEY = "unlabelled"
LEAST_WEIGHT = 0.5
"""Of a mixture's first input."""
MOST_MOVED = 1 / 8
"""Of an image's size."""
_PROBED = 16


class InputsOnly:
    """A data set without its labels, if it has any."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        item = self._dataset[position]
        return (item[0] if isinstance(item, tuple | list) else item), 0

    def example_id(self, position: int) -> str:
        """The data set's own, or the position."""
        return example_id_of(self._dataset, position)

    def source(self, position: int) -> str:
        """The data set's own, or nothing."""
        return source_of(self._dataset, position)


def open_unlabelled(classifier: Classifier, data: TrainingSet, *, probe: bool = True) -> TrainingSet | None:
    """The inputs that the spec names, or None; see `TrainingSet.open` for ``probe``.

    Raises:
        SpecError: They cannot be read, or are not of the training inputs' shape.
    """
    factory = classifier.spec.unlabelled
    if factory is None:
        return None
    inputs = InputsOnly(call_factory(classifier.spec, factory, KEY))
    found = TrainingSet(inputs, classifier, KEY, probe=probe)
    given, expected = found.item(0)[1], data.item(0)[1]
    form = form_of if data.signature.is_ragged else shape_key
    if form(given) != form(expected):
        raise SpecError(
            f"key '{KEY}': its inputs have {described(given)}, expected {sizes(expected)} as the training "
            "examples have",
            field=KEY,
        )
    return found


class PseudoQueries:
    """``count`` inputs, the same for every model that is asked.

    Args:
        data: The training set.
        unlabelled: Other inputs, or None.
        count: How many.
        seed: Of all draws.

    Attributes:
        unlabelled: As given.
        seed: As given.
        given: How many of the inputs are unlabelled ones as they are.
        origins: The training example that is the greater part of each, [count] int64; -1 for none.
    """

    def __init__(self, data: TrainingSet, unlabelled: TrainingSet | None, count: int, seed: int) -> None:
        self._data, self.unlabelled, self.seed = data, unlabelled, seed
        generator = torch.Generator().manual_seed(seed)
        given = unlabelled.sample(count, seed) if unlabelled else []
        self.given = len(given)
        pool = len(data) + (len(unlabelled) if unlabelled else 0)
        mixed = count - len(given)
        self._first = torch.cat(
            [torch.tensor(given, dtype=torch.int64) + len(data), torch.randint(pool, (mixed,), generator=generator)]
        )
        self._second = torch.randint(pool, (count,), generator=generator)
        weights = LEAST_WEIGHT + (1 - LEAST_WEIGHT) * torch.rand(count, generator=generator)
        self._moves = 2 * torch.rand(count, 2, 2, generator=generator) - 1
        if self._are_whole_numbers():
            weights.fill_(1.0)
            self._moves.zero_()
        weights[: len(given)] = 1.0
        self._moves[: len(given)] = 0.0
        self._weights = weights
        self.origins = torch.where(self._first < len(data), self._first, -1)

    def __len__(self) -> int:
        return len(self._first)

    def inputs(self, numbers: Sequence[int]) -> Inputs:
        """Some of the inputs, by their numbers from 0."""
        return self._data.together([self._input(number) for number in numbers])

    def digest(self) -> str:
        """Of the unlabelled inputs taken; the training set is part of what all stages depend on."""
        found = hashlib.sha256()
        for position in self._first[: self.given].tolist():
            found.update(content(self._read(position)))
        return found.hexdigest()[:8]

    def _input(self, number: int) -> Example:
        weight, moves = float(self._weights[number]), self._moves[number]
        first = self._read(int(self._first[number]))
        if not isinstance(first, Tensor) or weight == 1.0:
            return moved(first, moves[0]) if isinstance(first, Tensor) else first
        second = self._read(int(self._second[number]))
        assert isinstance(second, Tensor)  # as the first
        return weight * moved(first, moves[0]) + (1 - weight) * moved(second, moves[1])

    def _read(self, position: int) -> Example:
        if position < len(self._data):
            return self._data.example(position)
        assert self.unlabelled is not None
        return self.unlabelled.example(position - len(self._data))

    def _are_whole_numbers(self) -> bool:
        """Or hold some, or are of different lengths: what lies between two of them means nothing."""
        _, examples, _ = self._data.items(self._data.sample(_PROBED, seed=3))
        return not isinstance(examples, Tensor) or bool((examples == examples.round()).all())


def moved(value: Tensor, shares: Tensor) -> Tensor:
    """An image [C, H, W] moved by shares [2] of the most that is allowed, its edges repeated; others as they are."""
    if value.ndim != 3:
        return value
    for dimension, share in zip((1, 2), shares.tolist(), strict=True):
        size = value.shape[dimension]
        steps = round(share * MOST_MOVED * size)
        value = value.index_select(dimension, (torch.arange(size) - steps).clamp(0, size - 1))
    return value
