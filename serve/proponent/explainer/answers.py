"""From rows and scores to what a reader gets: training examples by id, and notices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from proponent.errors import ProponentError
from proponent.explainer.query import EmbeddedQuery
from proponent.index.bundle import Manifest
from proponent.index.catalog import Catalog, CatalogEntry
from proponent.index.search import Hits
from proponent.options import ExplainOptions, Measure, Ranking, View
from proponent.raw_inputs import kind_of, scalars
from proponent.results import DiversityOutcome, Explanation, Influence, MeasureResult, Notice, NoticeCode
from proponent.signature import InputKind

Outcomes = Mapping[Measure, tuple[DiversityOutcome | None, DiversityOutcome | None]]
"""What diverse proponents and opponents cost and give, by measure."""

REMEMBERED = 1 << 16
"""Most examples whose catalog entries are kept in memory, some 20 MB."""
NOTHING = (Hits([], []), Hits([], []))
ALL_ZERO = Notice(
    NoticeCode.ZERO_INFLUENCE, "the loss is flat at every training example: every influence is exactly zero"
)


class Answers:
    """Looks up the examples of an answer.

    Args:
        manifest: Of the bundle.
        catalog: Of the bundle.
        class_names: In class order.
        omitted: How many rows have no direction.
        all_zero: Whether no row has any influence, because every training gradient is zero.
    """

    def __init__(
        self,
        manifest: Manifest,
        catalog: Catalog,
        class_names: Sequence[str],
        omitted: int,
        *,
        all_zero: bool = False,
    ) -> None:
        self._catalog = catalog
        self._class_names = class_names
        self._omitted = omitted
        self._all_zero = all_zero
        self._of_model = _model_notices(manifest)
        self._known: dict[View, dict[int, Influence]] = {view: {} for view in View}

    def results(
        self, found: Mapping[Measure, tuple[Hits, Hits]], outcomes: Outcomes, option: ExplainOptions
    ) -> list[MeasureResult]:
        """Both ends of each measure asked for, in the order of ``Measure``."""
        hits = {measure: found.get(measure, NOTHING) for measure in Measure if measure in option.measures}
        if option.ranking is Ranking.BY_MAGNITUDE:
            merged = {measure: strongest(ends, option.top_k) for measure, ends in hits.items()}
            return self._by_magnitude(merged, option.view)
        examples = self._examples([row for ends in hits.values() for end in ends for row in end.rows], option.view)
        return [
            MeasureResult(
                measure,
                _ranked(proponents.rows, proponents.scores, examples),
                _ranked(opponents.rows, opponents.scores, examples),
                *outcomes.get(measure, ()),
            )
            for measure, (proponents, opponents) in hits.items()
        ]

    def _by_magnitude(self, merged: Mapping[Measure, Hits], view: View) -> list[MeasureResult]:
        """Both ends of each list, ranked as one."""
        examples = self._examples([row for hits in merged.values() for row in hits.rows], view)
        results = []
        for measure, hits in merged.items():
            ranked = _ranked(hits.rows, hits.scores, examples)
            proponents = [each for each in ranked if each.score > 0]
            results.append(MeasureResult(measure, proponents, [each for each in ranked if each.score < 0]))
        return results

    def influences(self, rows: Sequence[int], scores: Sequence[float], view: View) -> list[Influence]:
        """Examples ranked as the rows are given."""
        return _ranked(rows, scores, self._examples(rows, view))

    def _examples(self, rows: Sequence[int], view: View) -> Mapping[int, Influence]:
        """Examples of rows, without score or rank; remembered without what shows them, as a few lead most lists."""
        if view >= View.THUMBNAIL:
            return self._looked_up(rows, view)
        known = self._known[view]
        new = [row for row in rows if row not in known]
        if new:
            if len(known) + len(new) > REMEMBERED:
                known.clear()
                new = list(rows)
            known.update(self._looked_up(new, view))
        return known

    def _looked_up(self, rows: Sequence[int], view: View) -> dict[int, Influence]:
        entries = self._catalog.by_rows(rows, contents=view >= View.THUMBNAIL)
        return {row: self._example(entry, view) for row, entry in entries.items()}

    def _example(self, entry: CatalogEntry, view: View) -> Influence:
        return Influence(
            entry.example_id,
            0.0,
            0,
            entry.class_id,
            self._class_names[entry.class_id],
            entry.predicted_class_id,
            entry.self_influence,
            entry.source if view >= View.METADATA else "",
            entry.thumbnail,
            entry.text,
            entry.record,
        )

    def notices(self, query: EmbeddedQuery, measures: Sequence[Measure]) -> list[Notice]:
        """What holds of any answer to a query."""
        flat = [ALL_ZERO] if self._all_zero else [] if query.has_direction else [_no_influence(query)]
        omitted = [_rows_omitted(self._omitted)] if self._omitted and set(measures) - {Measure.INFLUENCE} else []
        return [*flat, *omitted, *self._of_model]


def beside(answer: Explanation | ProponentError, value: object) -> Explanation | ProponentError:
    """An answer with the row that was asked about, where it was one."""
    if isinstance(answer, ProponentError) or not isinstance(value, Mapping) or kind_of(value) is not InputKind.RECORD:
        return answer
    return replace(answer, record=scalars(value))


def _ranked(rows: Sequence[int], scores: Sequence[float], examples: Mapping[int, Influence]) -> list[Influence]:
    return [examples[row].ranked(score, rank) for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)]


def strongest(ends: tuple[Hits, Hits], k: int) -> Hits:
    """The k of largest |score| in both ends together, strongest first, ties by row number."""
    pairs = [pair for hits in ends for pair in zip(hits.rows, hits.scores, strict=True)]
    chosen = sorted(pairs, key=lambda pair: (-abs(pair[1]), pair[0]))[:k]
    return Hits([row for row, _ in chosen], [score for _, score in chosen])


def _no_influence(query: EmbeddedQuery) -> Notice:
    """Why a query has empty lists."""
    if query.scale == 0:
        return Notice(NoticeCode.ZERO_INFLUENCE, "the loss is flat at this input: every influence is exactly zero")
    return Notice(
        NoticeCode.NO_DIRECTION, f"the input's own gradient ({query.scale:.1e}) is too small to have a direction"
    )


def _distilled(teachers: int, halves: int) -> Notice:
    seen = f" ({halves} of them on a half of the training set each)" if halves else ""
    message = (
        f"scores are distilled from {teachers} other trainings of this recipe{seen} and speak of the recipe; RelatIF "
        "divides them by all these models' mean norms; self-influence is this model's own; a removal's second order "
        "equals its first"
    )
    return Notice(NoticeCode.SCORES_DISTILLED, message, teachers)


def _rows_omitted(omitted: int) -> Notice:
    message = f"{omitted} training examples without a gradient direction take no part in RelatIF"
    return Notice(NoticeCode.ROWS_OMITTED, message, omitted)


def _model_notices(manifest: Manifest) -> list[Notice]:
    """Whose scores the answers of a bundle hold, and which parameters they do not speak of."""
    notices = [_distilled(manifest.teachers, manifest.distillation.get("halves", 0))] if manifest.teachers else []
    if manifest.uncovered:
        message = f"{manifest.uncovered_share:.2%} of the model's trained parameters are not covered"
        notices.append(Notice(NoticeCode.LAYERS_UNCOVERED, message, len(manifest.uncovered)))
    if manifest.frozen:
        message = f"{manifest.frozen_share:.2%} of the model's parameters were not trained (frozen) and take no part"
        notices.append(Notice(NoticeCode.PARAMETERS_FROZEN, message, len(manifest.frozen)))
    return notices
