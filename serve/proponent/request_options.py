"""What requests ask for, as the options of this library: read by the gateway, which bounds it, and by workers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from proponent.errors import InvalidInputError
from proponent.options import (
    DEFAULT_TOP_K,
    Diversity,
    Estimator,
    ExplainIf,
    ExplainOptions,
    Filter,
    Measure,
    Ranking,
    Redundancy,
    Target,
    View,
)
from proponent.v1 import explanation_pb2 as pb

_DEFAULTS = Diversity()

MEASURES: Mapping[int, Measure] = {pb.Measure.Value(f"MEASURE_{measure.name}"): measure for measure in Measure}
_REDUNDANCIES: Mapping[int, Redundancy] = {
    pb.REDUNDANCY_UNSPECIFIED: _DEFAULTS.redundancy,
    **{pb.Redundancy.Value(f"REDUNDANCY_{term.name}"): term for term in Redundancy},
}
_RANKINGS: Mapping[int, Ranking] = {
    pb.RANKING_UNSPECIFIED: Ranking.BY_END,
    **{pb.Ranking.Value(f"RANKING_{ranking.name}"): ranking for ranking in Ranking},
}
_ESTIMATORS: Mapping[int, Estimator] = {
    pb.ESTIMATOR_UNSPECIFIED: Estimator.FIRST_ORDER,
    **{pb.Estimator.Value(f"ESTIMATOR_{estimator.name}"): estimator for estimator in Estimator},
}


def options_from(request: pb.ExplainRequest) -> ExplainOptions:
    """Options of a request.

    Raises:
        InvalidInputError: An unknown measure, redundancy, view or ranking, top_k not above 0, or a diverse selection
            ranked by magnitude.
    """
    top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
    if top_k < 1:
        raise InvalidInputError(f"top_k is {top_k}, expected at least 1", field="top_k", reason="TOP_K_OUT_OF_RANGE")
    return ExplainOptions(
        measures=_measures(request),
        top_k=top_k,
        target=_target(request.target),
        filter=Filter(
            frozenset(request.filter.allow_class_ids),
            frozenset(request.filter.deny_class_ids),
            tuple(request.filter.exclude_example_ids),
        ),
        diversity=diversity_from(request.diversity) if request.HasField("diversity") else None,
        view=_view(request.view),
        explain_if=_explain_if(request.explain_if) if request.HasField("explain_if") else None,
        ranking=_ranking(request),
    )


def _ranking(request: pb.ExplainRequest) -> Ranking:
    if request.ranking not in _RANKINGS:
        raise InvalidInputError(
            f"ranking {request.ranking} is unknown, expected {', '.join(pb.Ranking.keys())}", field="ranking"
        )
    return _RANKINGS[request.ranking]


def _explain_if(asked: pb.ExplainIf) -> ExplainIf:
    given = {field.name: value for field, value in asked.ListFields()}
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise InvalidInputError(f"explain_if.{name} is {value}, expected 0 to 1", field=f"explain_if.{name}")
    return ExplainIf(**given)


def _measures(request: pb.ExplainRequest) -> tuple[Measure, ...]:
    wanted = [number for number in request.measures if number != pb.MEASURE_UNSPECIFIED]
    unknown = [number for number in wanted if number not in MEASURES]
    if unknown:
        raise InvalidInputError(
            f"measure {unknown[0]} is unknown, expected one of {', '.join(pb.Measure.keys()[1:])}",
            field="measures",
            reason="MEASURE_UNKNOWN",
        )
    return tuple(MEASURES[number] for number in wanted) or tuple(Measure)


def _target(target: pb.Target) -> Target:
    kind = target.WhichOneof("kind")
    if kind == "contrast":
        return Target(target.contrast.for_class_id, target.contrast.against_class_id)
    return Target(target.class_id if kind == "class_id" else None)


def diversity_from(diversity: pb.Diversity) -> Diversity:
    """The DIVINE selection of a request.

    Raises:
        InvalidInputError: An unknown term, or a weight out of range.
    """
    if diversity.redundancy not in _REDUNDANCIES:
        raise InvalidInputError(f"redundancy {diversity.redundancy} is unknown", field="diversity.redundancy")
    _check_weight(diversity.gamma, "gamma")
    _check_weight(diversity.bandwidth, "bandwidth")
    _check_weight(diversity.max_influence_loss, "max_influence_loss", most=1.0)
    strength = diversity.WhichOneof("strength")
    return Diversity(
        redundancy=_REDUNDANCIES[diversity.redundancy],
        gamma=diversity.gamma if strength == "gamma" else _DEFAULTS.gamma,
        max_influence_loss=diversity.max_influence_loss if strength == "max_influence_loss" else None,
        candidates=diversity.candidates or _DEFAULTS.candidates,
        bandwidth=diversity.bandwidth or None,
        whole_dataset=diversity.whole_dataset,
        unscaled=diversity.unscaled,
    )


def _check_weight(value: float, name: str, most: float = math.inf) -> None:
    if not (math.isfinite(value) and 0 <= value <= most):
        expected = "a finite number >= 0" if most == math.inf else f"0 to {most:g}"
        raise InvalidInputError(f"diversity.{name} is {value}, expected {expected}", field=f"diversity.{name}")


def _view(number: int) -> View:
    if number not in (pb.VIEW_UNSPECIFIED, *View):
        raise InvalidInputError(f"view {number} is unknown, expected {', '.join(pb.View.keys())}", field="view")
    return View(number) if number else View.ID_ONLY


def estimator_from(request: pb.EstimateRemovalRequest) -> Estimator:
    """The estimator that a request names.

    Raises:
        InvalidInputError: An unknown one.
    """
    if request.estimator not in _ESTIMATORS:
        raise InvalidInputError(f"estimator {request.estimator} is unknown", field="estimator")
    if request.estimator == pb.ESTIMATOR_UNSPECIFIED and request.second_order:
        return Estimator.SECOND_ORDER
    return _ESTIMATORS[request.estimator]
