"""What an alert's expression finds in one scrape: the part of PromQL that such rules are made of.

Selectors, comparisons with a number, and ``and`` by labels; anything else is refused rather than guessed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from promql import selected

Series = tuple[dict[str, str], float]
TARGET = {"instance": "gateway:8080", "job": "proponent"}
"""What Prometheus adds to whatever it scrapes."""
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def found(expression: str, scraped: str) -> list[dict[str, str]]:
    """The labels of the series for which the expression holds in a scrape of one target."""
    return [labels for labels, _ in _evaluated(promql_parser.parse(expression), scraped)]


def _evaluated(node: Any, scraped: str) -> list[Series]:
    kind = type(node).__name__
    if kind == "ParenExpr":
        return _evaluated(node.expr, scraped)
    if kind == "VectorSelector":
        return _series(str(node), scraped)
    if kind == "BinaryExpr" and str(node.op) in _COMPARISONS and type(node.rhs).__name__ == "NumberLiteral":
        holds = _COMPARISONS[str(node.op)]
        return [(labels, value) for labels, value in _evaluated(node.lhs, scraped) if holds(value, node.rhs.val)]
    if kind == "BinaryExpr" and str(node.op) == "and" and str(node.modifier.matching).startswith("on "):
        by = node.modifier.matching.labels
        others = {_key(labels, by) for labels, _ in _evaluated(node.rhs, scraped)}
        return [each for each in _evaluated(node.lhs, scraped) if _key(each[0], by) in others]
    raise NotImplementedError(f"{kind}: {node}")


def _series(selector: str, scraped: str) -> list[Series]:
    [asked] = selected(selector)
    samples = [sample for family in text_string_to_metric_families(scraped) for sample in family.samples]
    named = [(sample.labels | TARGET, sample.value) for sample in samples if sample.name == asked.metric]
    return [(labels, value) for labels, value in named if asked.matches(labels)]


def _key(labels: dict[str, str], by: list[str]) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in by)
