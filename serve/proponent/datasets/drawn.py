"""Labelled examples that are drawn from a seed by a rule, with planted label noise on request: they need no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from proponent.datasets.examples import Examples
from proponent.errors import InvalidInputError

T = TypeVar("T")


@dataclass(frozen=True)
class Drawn(Examples[T]):
    """Examples of two classes whose true labels are known.

    Attributes:
        clean_labels: N class numbers, by the rule; ``labels`` are those after label noise.
    """

    clean_labels: Sequence[int]


def drawn(
    name: str,
    class_names: list[str],
    draw: Callable[[int, np.random.RandomState], tuple[T, int]],
    count: int,
    seed: int,
    flip_fraction: float,
) -> Drawn[T]:
    """Draw examples; their ids are ``name-<seed>-0012``.

    Args:
        name: Of the data set.
        class_names: Of both classes.
        draw: From a number and the source of everything random to an example and its label by the rule.
        count: Number of examples N.
        seed: Seed of everything random.
        flip_fraction: Share of labels to turn round, at random; the examples do not depend on it.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    if count < 1 or not 0 <= flip_fraction <= 1:
        raise InvalidInputError(
            f"Got count={count}, flip_fraction={flip_fraction}; expected count >= 1, flip_fraction 0..1."
        )
    random = np.random.RandomState(seed)
    inputs, clean = zip(*(draw(number, random) for number in range(count)), strict=True)
    flipped = set(random.permutation(count)[: round(flip_fraction * count)].tolist())
    return Drawn(
        inputs=inputs,
        labels=[1 - label if number in flipped else label for number, label in enumerate(clean)],
        class_names=class_names,
        ids=[f"{name}-{seed}-{number:04d}" for number in range(count)],
        sources=[f"synthetic-{seed}#{number}" for number in range(count)],
        clean_labels=clean,
    )
