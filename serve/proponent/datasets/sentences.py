"""Opinions drawn from a seed: sentences that need no file, whose rule is known, with planted label noise on request.

The rule: the last clause decides, and ``not`` or ``never`` turns its opinion round. What comes before ``but`` has no
say, so that a model that counts words is right about most sentences and wrong about some.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proponent.datasets.drawn import Drawn, drawn
from proponent.datasets.examples import Examples

CLASS_NAMES = ["negative", "positive"]
GOOD = ("brilliant", "charming", "funny", "gripping", "moving", "sharp", "tender", "warm")
BAD = ("bland", "clumsy", "dull", "hollow", "lazy", "shallow", "tedious", "tired")
_OPENINGS = ("", "", "", "to be honest , ", "as expected , ", "on second viewing , ", "for once , ")
_THINGS = ("the acting", "the camera work", "the cast", "the dialogue", "the ending", "the plot", "the score")
_VERBS = ("is", "seems", "feels")
_DEGREES = ("", "", "rather ", "very ", "truly ")
_SHARE_WITH_TWO_CLAUSES, _SHARE_NEGATED = 0.4, 0.3


@dataclass(frozen=True)
class _Clause:
    words: str
    is_good: bool


TRAINED, HELD_OUT = 1_600, 200
MISTAKES = 0.04
"""Share of the training labels that are turned round."""


def train(limit: int | None = None) -> Examples[str]:
    """The 1,600 training sentences, of whose labels some are wrong, or the first ``limit`` of them."""
    return sentences(TRAINED, 0, MISTAKES).take(range(TRAINED)[:limit])


def test(limit: int | None = None) -> Examples[str]:
    """The 200 held-out sentences, or the first ``limit`` of them."""
    return sentences(HELD_OUT, 1).take(range(HELD_OUT)[:limit])


def sentences(count: int = 1000, seed: int = 0, flip_fraction: float = 0.0) -> Drawn[str]:
    """Draw sentences; classes alternate. Ids are ``sentences-<seed>-0012``.

    Args:
        count: Number of sentences N.
        seed: Seed of everything random.
        flip_fraction: Share of labels to turn round, at random.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    return drawn("sentences", CLASS_NAMES, _opinion, count, seed, flip_fraction)


def _opinion(number: int, random: np.random.RandomState) -> tuple[str, int]:
    return _sentence(bool(number % 2), random), number % 2


def _sentence(is_good: bool, random: np.random.RandomState) -> str:
    last = _clause(is_good, random)
    opening = _one(_OPENINGS, random)
    if random.uniform() >= _SHARE_WITH_TWO_CLAUSES:
        return opening + last.words
    first = _clause(bool(random.randint(2)), random)
    joint = " and " if first.is_good == is_good else " , but "
    return opening + first.words + joint + last.words


def _clause(is_good: bool, random: np.random.RandomState) -> _Clause:
    is_negated = random.uniform() < _SHARE_NEGATED
    word = _one(GOOD if is_good != is_negated else BAD, random)
    thing, verb, degree = _one(_THINGS, random), _one(_VERBS, random), _one(_DEGREES, random)
    if not is_negated:
        return _Clause(f"{thing} {verb} {degree}{word}", is_good)
    turned = (
        f"{thing} never {verb} {word}" if verb != "is" and random.randint(2) else f"{thing} is not {degree}{word}"
    )
    return _Clause(turned, is_good)


def _one(choices: tuple[str, ...], random: np.random.RandomState) -> str:
    return choices[random.randint(len(choices))]
