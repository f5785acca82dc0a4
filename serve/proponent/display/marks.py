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
HINT = (
    "Marked words carry an influence, to first order: a hint, measured against replacing and leaving out each word "
    "(docs/scores.md)."
)


class Token(Protocol):
    """A token of a text and its weight."""

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


def parts(text: str, tokens: Sequence[Token]) -> list[Part]:
    """A text cut at its tokens; strengths are relative to its largest weight.

    >>> from proponent.results import WeighedToken
    >>> found = parts("a fine film", [WeighedToken(2, 6, 0.4), WeighedToken(7, 11, -0.1)])
    >>> [(part.text, part.step) for part in found]
    [('a ', 0), ('fine', 4), (' ', 0), ('film', -1)]
    """
    largest = max((abs(token.weight) for token in tokens if math.isfinite(token.weight)), default=0.0)
    found, place = [], 0
    for token in tokens:
        start = max(place, token.start)
        if not largest or token.end <= start:
            continue
        found += [Part(text[place:start]), _part(text[start : token.end], token.weight, largest)]
        place = token.end
    return [part for part in (*found, Part(text[place:])) if part.text]


def _part(text: str, weight: float, largest: float) -> Part:
    step = round(STEPS * abs(weight) / largest) if math.isfinite(weight) else 0
    return Part(text, weight, step if weight > 0 else -step)


def strongest(text: str, tokens: Sequence[Token]) -> str:
    """The words with the largest weights, in words; empty where there is none.

    >>> from proponent.results import WeighedToken
    >>> strongest("a fine film", [WeighedToken(2, 6, 0.4), WeighedToken(7, 11, -0.125)])
    'fine +0.4, film -0.125'
    """
    told = [part for part in parts(text, tokens) if part.step]
    ranked = sorted(told, key=lambda part: -abs(part.weight))[:NAMED]
    return ", ".join(f"{visible(part.text)} {part.weight:+.3g}" for part in ranked)


@dataclass(frozen=True)
class Weight:
    """A token whose weight is a sum."""

    start: int
    end: int
    weight: float


def together(sides: Iterable[Sequence[Token]]) -> list[Weight]:
    """The tokens of one text with the sums of their weights in several pairs: they carry the sum of the scores."""
    sums: dict[tuple[int, int], float] = {}
    for side in sides:
        for token in side:
            sums[token.start, token.end] = sums.get((token.start, token.end), 0.0) + token.weight
    return [Weight(*span, weight) for span, weight in sums.items()]
