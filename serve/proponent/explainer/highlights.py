"""Which words carry the scores of pairs of texts: each word is left out, on either side, and the score computed anew.

The score of an input x and a training example z is ``phi(x) . phi(z)``, phi being linear in the gradient of the loss.
A word's weight is what the score loses when the text lacks the word: of x the phi of each shortened text is computed
once and multiplied with every example's. Nothing is known of the model but phi, and nothing is approximate in a
weight; how far derivatives, which cost less, agree with it is measured in docs/performance.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from proponent.attribution.inputs import Example
from proponent.bounds.cancellation import checkpoint
from proponent.errors import HighlightsUnavailableError, ProponentError
from proponent.explainer.query import QueryEmbedder
from proponent.index.bundle import Manifest
from proponent.index.catalog import LONGEST_TEXT, CatalogEntry
from proponent.options import ExplainOptions, Target, View
from proponent.raw_inputs import model_input
from proponent.results import Highlight, Highlights, WeighedWord
from proponent.stages import Stopwatch

Span = tuple[int, int]
"""The first character of a word, and the one behind its last."""
WHOLE: Span = (0, 0)
AT_ONCE = 32
"""Shortened texts that are computed together."""
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’]\w+)*|[^\w\s]")
"""A run of letters and digits, a mark of punctuation, or a character of a script that has no spaces."""


class Side(NamedTuple):
    """One side of a pair: a text, the tensors that the model takes of it, and the class whose loss is meant.

    In a contrast it is that of ``class_id`` less that of ``against``.
    """

    text: str
    value: Example
    class_id: int
    against: int | None = None


class Asked(NamedTuple):
    """What is asked about: a text, the tensors that the model takes of it, and what to explain and to show."""

    text: str
    value: Example
    options: ExplainOptions


class Weighed(NamedTuple):
    """The score of a pair, and the weights of the words of the text asked about and of the example's."""

    score: float
    asked: list[WeighedWord]
    example: list[WeighedWord]


def highlighted(
    embedder: QueryEmbedder, manifest: Manifest, entries: Sequence[CatalogEntry], asked: Asked
) -> Highlights:
    """The words of pairs of one text and each of some training texts.

    Raises:
        HighlightsUnavailableError: The bundle's scores are distilled.
        InvalidInputError: An unknown class, or a contrast of a class with itself.
    """
    if manifest.teachers:
        message = "scores are distilled from other trainings: this model alone does not tell them"
        raise HighlightsUnavailableError(message)
    transform = embedder.classifier.transform
    [prediction] = embedder.predict([asked.value])
    choice = embedder.choice(prediction, asked.options.target)
    if isinstance(prediction, ProponentError):
        raise prediction
    if isinstance(choice, ProponentError):
        raise choice
    whole = [entry for entry in entries if not _lacking(entry)]
    examples = (Side(entry.text, model_input(transform, entry.text), entry.class_id) for entry in whole)
    found = zip(whole, weigh(embedder, Side(asked.text, asked.value, *choice), examples), strict=True)
    shows = asked.options.view >= View.THUMBNAIL
    weighed = {entry.example_id: _highlight(entry, each, shows=shows) for entry, each in found}
    return Highlights(
        prediction=prediction,
        highlights=[weighed.get(e.example_id) or Highlight(e.example_id, unavailable=_lacking(e)) for e in entries],
        target_class_id=choice[0],
        against_class_id=choice[1],
        bundle_digest=manifest.digest,
        text=asked.text,
    )


def _lacking(entry: CatalogEntry) -> str:
    """Why a training example cannot be weighed, or nothing."""
    if not entry.text:
        return "the bundle keeps no text of this training example"
    return "the bundle keeps only the beginning of this text" if len(entry.text) > LONGEST_TEXT else ""


def _highlight(entry: CatalogEntry, found: Weighed, *, shows: bool) -> Highlight:
    example, text = (found.example, entry.text) if shows else ((), "")
    return Highlight(entry.example_id, found.score, found.asked, example, text)


def weigh(embedder: QueryEmbedder, asked: Side, examples: Iterable[Side]) -> Iterator[Weighed]:
    """Each example's score and weights, one after the other.

    Raises:
        InvalidInputError: The gradient of a text is not finite.
    """
    own, shortened = left_out(embedder, asked)
    for example in examples:
        other, theirs = left_out(embedder, example)
        score = float(own @ other)
        yield Weighed(score, _weights(score, shortened, other), _weights(score, theirs, own))


def left_out(embedder: QueryEmbedder, side: Side) -> tuple[Tensor, dict[Span, Tensor]]:
    """Phi of a text [K] float64, and of the text without each of its words."""
    transform, values = embedder.classifier.transform, {WHOLE: side.value}
    for span in spans(side.text):
        text = without(side.text, span)
        if text.strip():
            values[span] = model_input(transform, text)
    found, places = dict[Span, Tensor](), list(values)
    for start in range(0, len(places), AT_ONCE):
        checkpoint()
        some = places[start : start + AT_ONCE]
        targets = [Target(side.class_id, side.against)] * len(some)
        embedded = embedder.embed([values[span] for span in some], targets, Stopwatch())
        for span, query in zip(some, embedded, strict=True):
            if isinstance(query, ProponentError):
                raise query
            found[span] = query.direction.double().cpu() * query.norm
    return found.pop(WHOLE), found


def spans(text: str) -> list[Span]:
    """The words of a text, each as its first character and the one behind its last.

    >>> [("Don't stop, 映画!"[start:end]) for start, end in spans("Don't stop, 映画!")]
    ["Don't", 'stop', ',', '映', '画', '!']
    """
    return [found.span() for found in _WORDS.finditer(text)]


def without(text: str, span: Span) -> str:
    """A text that lacks a word, and one of the two spaces that it stood between.

    >>> without("a fine film", (2, 6)), without("a film!", (2, 6)), without("fine", (0, 4))
    ('a film', 'a !', '')
    """
    before, behind = text[: span[0]], text[span[1] :]
    return before + (behind[1:] if (not before or before[-1].isspace()) and behind[:1].isspace() else behind)


def _weights(score: float, shortened: dict[Span, Tensor], other: Tensor) -> list[WeighedWord]:
    """What the score loses without each word, given phi without it and phi [K] of the other side."""
    return [WeighedWord(*span, score - float(phi @ other)) for span, phi in shortened.items()]
