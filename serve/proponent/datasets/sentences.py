"""Opinions drawn from a seed: sentences that need no file, whose rule is known, with planted label noise on request.

The rule: the last clause decides, and ``not`` or ``never`` turns its opinion round. What comes before ``but`` has no
say, so that a model that counts words is right about most sentences and wrong about some.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proponent.errors import InvalidInputError

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


class Sentences:
    """Labelled sentences; ids are ``sentences-<seed>-0012``.

    Attributes:
        texts: ``[N]``.
        labels: ``[N]``, 0 or 1, after label noise.
        clean_labels: ``[N]``, by the rule.
        class_names: Name of each class.
    """

    def __init__(self, texts: list[str], clean_labels: list[int], labels: list[int], seed: int) -> None:
        self.texts = texts
        self.clean_labels = clean_labels
        self.labels = labels
        self.class_names = list(CLASS_NAMES)
        self._seed = seed

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, int]:
        """The sentence and its label."""
        return self.texts[index], self.labels[index]

    def example_id(self, index: int) -> str:
        """Unique id."""
        return f"sentences-{self._seed}-{index:04d}"

    def source(self, index: int) -> str:
        """The generator and the sentence's number."""
        return f"synthetic-{self._seed}#{index}"


def sentences(count: int = 1000, seed: int = 0, flip_fraction: float = 0.0) -> Sentences:
    """Draw sentences; classes alternate. The texts do not depend on ``flip_fraction``.

    Args:
        count: Number of sentences N.
        seed: Seed of everything random.
        flip_fraction: Share of labels to turn round, at random.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    if count < 1 or not 0 <= flip_fraction <= 1:
        raise InvalidInputError(
            f"Got count={count}, flip_fraction={flip_fraction}; expected count >= 1, flip_fraction 0..1."
        )
    random = np.random.RandomState(seed)
    clean = [index % 2 for index in range(count)]
    texts = [_sentence(bool(label), random) for label in clean]
    flipped = set(random.permutation(count)[: round(flip_fraction * count)].tolist())
    labels = [1 - label if index in flipped else label for index, label in enumerate(clean)]
    return Sentences(texts, clean, labels, seed)


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
