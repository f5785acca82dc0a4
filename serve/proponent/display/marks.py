"""Texts whose words are marked by what they carry of an influence, for those who see colours and those who do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from proponent.display.contents import visible

STEPS = 4
"""Strengths of a mark."""
NAMED = 3
"""Words that the sentence beside a text names."""
HINT = "Marked words carry the influence: it would be smaller by their weight, if the text lacked the word."


class Word(Protocol):
    """A word of a text and its weight."""

    @property
    def start(self) -> int:
        """Its first character."""

    @property
    def end(self) -> int:
        """The character behind its last one."""

    @property
    def weight(self) -> float:
        """What the score would lose without it; nan where it is not told."""


@dataclass(frozen=True)
class Part:
    """A stretch of a text.

    Attributes:
        step: Strength of its mark, 1..4, negative where it carries a negative influence; 0: none.
    """

    text: str
    weight: float = 0.0
    step: int = 0

    @property
    def css(self) -> str:
        """Classes of a mark."""
        return f"{'plus' if self.step > 0 else 'minus'} step{abs(self.step)}"


def parts(text: str, words: Sequence[Word]) -> list[Part]:
    """A text cut at its words; strengths are relative to its largest weight.

    >>> from proponent.results import WeighedWord
    >>> found = parts("a fine film", [WeighedWord(2, 6, 0.4), WeighedWord(7, 11, -0.1)])
    >>> [(part.text, part.step) for part in found]
    [('a ', 0), ('fine', 4), (' ', 0), ('film', -1)]
    """
    largest = max((abs(word.weight) for word in words if math.isfinite(word.weight)), default=0.0)
    found, place = [], 0
    for word in words:
        start = max(place, word.start)
        if not largest or word.end <= start:
            continue
        found += [Part(text[place:start]), _part(text[start : word.end], word.weight, largest)]
        place = word.end
    return [part for part in (*found, Part(text[place:])) if part.text]


def _part(text: str, weight: float, largest: float) -> Part:
    step = round(STEPS * abs(weight) / largest) if math.isfinite(weight) else 0
    return Part(text, weight, step if weight > 0 else -step)


def strongest(text: str, words: Sequence[Word]) -> str:
    """The words with the largest weights, in words; empty where there is none.

    >>> from proponent.results import WeighedWord
    >>> strongest("a fine film", [WeighedWord(2, 6, 0.4), WeighedWord(7, 11, -0.125)])
    '“fine” +0.4, “film” -0.125'
    """
    told = [part for part in parts(text, words) if part.step]
    ranked = sorted(told, key=lambda part: -abs(part.weight))[:NAMED]
    return ", ".join(f"“{visible(part.text)}” {part.weight:+.3g}" for part in ranked)


@dataclass(frozen=True)
class Weight:
    """A word whose weight is a sum."""

    start: int
    end: int
    weight: float


def together(sides: Iterable[Sequence[Word]]) -> list[Weight]:
    """The words of one text with the sums of their weights in several pairs: they carry the sum of the scores."""
    sums: dict[tuple[int, int], float] = {}
    for side in sides:
        for word in side:
            sums[word.start, word.end] = sums.get((word.start, word.end), 0.0) + word.weight
    return [Weight(*span, weight) for span, weight in sums.items()]
