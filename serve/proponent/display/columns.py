"""The lists of an explanation side by side: one column for each measure, and one for a diverse selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from proponent.display.figures import score
from proponent.display.sentences import METHODS, Method, kept
from proponent.display.shown import Example, Explanation, Lists


@dataclass(frozen=True)
class Row:
    """An example in a list.

    Attributes:
        said: What the model says of it, where that is not its label.
        share: Length of its bar, 0..100, in hundredths of the column's largest score.
        lists: How many columns name it.
    """

    example: Example
    said: str
    score: str
    share: float
    lists: int


@dataclass(frozen=True)
class Column:
    """Both ends of one method.

    Attributes:
        kept: What a diverse selection costs and gives, in words.
    """

    method: Method
    proponents: list[Row]
    opponents: list[Row]
    kept: str = ""

    @property
    def sides(self) -> tuple[tuple[str, list[Row]], tuple[str, list[Row]]]:
        """Both lists, by the name of the class that styles them."""
        return ("for", self.proponents), ("against", self.opponents)


def columns(
    results: Sequence[Lists], names: Mapping[int, str] | None = None, divine: Lists | None = None
) -> list[Column]:
    """The columns of an explanation.

    Bars have one scale within a measure, for and against; a diverse selection has that of its measure.

    Args:
        results: The measures' lists.
        names: Class names; those of the examples' labels where they are not known.
        divine: A diverse selection by one of the measures.
    """
    every = [(result, METHODS[result.measure.value]) for result in results]
    every += [(divine, METHODS["divine"])] if divine else []
    scales = {result.measure: largest([*result.proponents, *result.opponents]) for result, _ in reversed(every)}
    known = names or {example.class_id: example.label for result, _ in every for example in _examples(result)}
    lists = Counter(name for result, _ in every for name in {example.example_id for example in _examples(result)})
    return [_column(result, method, known, scales[result.measure], lists) for result, method in every]


def _column(
    result: Lists, method: Method, names: Mapping[int, str], scale: float, lists: Mapping[str, int]
) -> Column:
    proponents, opponents = (
        [_row(example, names, scale, lists) for example in side] for side in (result.proponents, result.opponents)
    )
    return Column(method, proponents, opponents, _kept(result))


def largest(examples: Iterable[Example]) -> float:
    """The largest size of a score that is told."""
    return max((abs(example.score) for example in examples if isfinite(example.score)), default=0.0)


def claim(explanation: Explanation) -> str:
    """What the examples argue for: the class explained, in a contrast rather than the other one."""
    label = _label(explanation, explanation.target_class_id)
    if explanation.against_class_id is None:
        return label
    return f"{label} rather than {_label(explanation, explanation.against_class_id)}"


def _label(explanation: Explanation, class_id: int) -> str:
    """Name of a class, as far as the explanation knows it."""
    if class_id == explanation.prediction.class_id:
        return explanation.prediction.label
    examples = (example for result in explanation.results for example in _examples(result))
    labels = (example.label for example in examples if example.class_id == class_id)
    return next(labels, f"class {class_id}")


def _examples(result: Lists) -> list[Example]:
    return [*result.proponents, *result.opponents]


def _row(example: Example, names: Mapping[int, str], scale: float, lists: Mapping[str, int]) -> Row:
    said = names.get(example.predicted_class_id, f"class {example.predicted_class_id}")
    return Row(
        example=example,
        said="" if example.predicted_class_id == example.class_id else said,
        score=score(example.score, scale),
        share=round(100 * abs(example.score) / scale, 1) if scale and isfinite(example.score) else 0.0,
        lists=lists[example.example_id] if example.example_id else 1,
    )


def _kept(result: Lists) -> str:
    outcome = result.proponents_diversity
    if outcome is None or not isfinite(outcome.influence_kept):
        return ""
    return kept(outcome.influence_kept, outcome.mean_similarity, outcome.plain_similarity)
