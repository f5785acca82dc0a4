"""What a report says of each input: the lists, and what would change without some of the examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from proponent.display.columns import Column, columns
from proponent.display.marks import Weight, together
from proponent.display.sentences import lead, removal
from proponent.errors import ProponentError
from proponent.explainer import Explainer
from proponent.options import Diversity, ExplainOptions, Measure, View
from proponent.reports.inputs import Input, Unreadable
from proponent.reports.removals import Removal, flipping, without_the_first
from proponent.results import Explanation, Highlight, MeasureResult, Notice
from proponent.text import Text

AT_ONCE = 16
"""Inputs whose answers are held at the same time."""
_MOST_CLASSES = 10


@dataclass(frozen=True)
class Answer:
    """An input explained.

    Attributes:
        wrong: Whether the prediction is known to be wrong.
        flip_notices: What to know of the search for a set that flips the prediction.
        weighed: What the words of texts carry, by training example; empty where it was not asked for.
    """

    asked: Input
    explanation: Explanation
    columns: list[Column]
    sentence: str
    wrong: bool
    removals: list[Removal]
    flip_notices: Sequence[Notice]
    weighed: Mapping[str, Highlight]

    @property
    def own_words(self) -> list[Weight]:
        """The words of the text asked about, by what they carry of all its proponents together."""
        listed = dict.fromkeys(row.example.example_id for column in self.columns for row in column.proponents)
        return together(self.weighed[name].asked for name in listed if name in self.weighed)

    @property
    def odds(self) -> list[tuple[int, float]]:
        """The likeliest classes and their probabilities, likeliest first."""
        ranked = sorted(enumerate(self.explanation.prediction.probabilities), key=lambda pair: -pair[1])
        return ranked[:_MOST_CLASSES]

    @property
    def likelihood(self) -> float:
        """Probability of the predicted class."""
        return self.explanation.prediction.probabilities[self.explanation.prediction.class_id]


def answer_all(
    explainer: Explainer, inputs: Iterable[Input | Unreadable], top_k: int, *, highlight: bool = False
) -> Iterator[Answer | Unreadable]:
    """Explains inputs in their order, some at a time; ``highlight`` weighs the words of texts."""
    waiting = iter(inputs)
    while batch := list(islice(waiting, AT_ONCE)):
        answers = _answers(explainer, [one for one in batch if isinstance(one, Input)], top_k, highlight)
        yield from (next(answers) if isinstance(one, Input) else one for one in batch)


def _answers(
    explainer: Explainer, inputs: Sequence[Input], top_k: int, highlight: bool
) -> Iterator[Answer | Unreadable]:
    if not inputs:
        return
    plain = ExplainOptions(top_k=top_k, view=View.THUMBNAIL)
    diverse = ExplainOptions((Measure.INFLUENCE,), top_k, diversity=Diversity(), view=View.THUMBNAIL)
    values = [one.value for one in inputs]
    found = [explainer.explain(values, [options] * len(values)) for options in (plain, diverse)]
    for one, explanation, divine in zip(inputs, *found, strict=True):
        if isinstance(explanation, ProponentError):
            yield Unreadable(one.name, str(explanation))
        elif isinstance(divine, ProponentError):
            yield Unreadable(one.name, str(divine))
        else:
            lists = [*explanation.results, divine.results[0]]
            weighed = _weighed(explainer, one.text, lists) if highlight and one.text else {}
            yield _answer(explainer, one, explanation, divine.results[0], weighed)


def _weighed(explainer: Explainer, text: str, lists: Sequence[MeasureResult]) -> dict[str, Highlight]:
    ids = list(dict.fromkeys(each.example_id for one in lists for each in (*one.proponents, *one.opponents)))
    found = explainer.highlight_examples(Text(text), ids, ExplainOptions(view=View.THUMBNAIL))
    return {each.example_id: each for each in found.highlights}


def _answer(
    explainer: Explainer,
    asked: Input,
    explanation: Explanation,
    divine: MeasureResult,
    weighed: Mapping[str, Highlight],
) -> Answer:
    names, prediction = explainer.classifier.class_names, explanation.prediction
    removals = without_the_first(explainer, asked, explanation.results[0].proponents)
    said = [removal(names, prediction.class_id, r.what, prediction.probabilities, r.after) for r in removals[:1]]
    flip_set = explainer.find_flip_set(asked.value)
    flip = flipping(flip_set)
    return Answer(
        asked=asked,
        explanation=explanation,
        columns=columns(explanation.results, dict(enumerate(names)), divine),
        sentence=" ".join([lead(prediction.label, len(explanation.results[0].proponents)), *said]),
        wrong=asked.label not in (None, prediction.class_id),
        removals=[*removals, flip] if flip else removals,
        flip_notices=[notice for notice in flip_set.notices if notice not in explanation.notices],
        weighed=weighed,
    )
