"""What PromQL expressions ask for: metrics, and the labels that they select and group them by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

DEPLOY = Path(__file__).parent.parent / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "proponent.json"
# What Prometheus adds to whatever it scrapes.
TARGET_LABELS = frozenset({"instance", "job"})
_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
_VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$model": ".*"}


@dataclass(frozen=True)
class Selected:
    """One selector: a metric, its matchers (label, operator, value), and the labels that results are grouped by."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    grouping: frozenset[str]

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(label for label, _, _ in self.matchers) | self.grouping

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether a series has these labels; those of targets are not looked at."""
        return all(
            _holds(op, value, labels.get(name, "")) for name, op, value in self.matchers if name not in TARGET_LABELS
        )


def _holds(op: str, wanted: str, value: str) -> bool:
    found = re.fullmatch(wanted, value) is not None if "~" in op else wanted == value
    return found != op.startswith("!")


def selected(expression: str) -> list[Selected]:
    """All selectors of an expression; raises ValueError where it is not PromQL."""
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return list(_walk(promql_parser.parse(expression), frozenset()))


def _walk(node: Any, grouping: frozenset[str]) -> Iterator[Selected]:
    kind = type(node).__name__
    if kind == "VectorSelector":
        matchers = tuple((m.name, _OPERATORS[str(m.op)], m.value) for m in node.matchers.matchers)
        yield Selected(node.name, matchers, grouping)
        return
    own = grouping | frozenset(_modifier_labels(getattr(node, "modifier", None)))
    for part in ("lhs", "rhs", "expr", "vector_selector"):
        if (below := getattr(node, part, None)) is not None:
            yield from _walk(below, own)
    for argument in getattr(node, "args", None) or ():
        yield from _walk(argument, own)


def _modifier_labels(modifier: Any) -> Iterator[str]:
    """Labels of by, on, ignoring and group_left."""
    for holder, name in (
        (modifier, "labels"),
        (modifier, "group_labels"),
        (getattr(modifier, "matching", None), "labels"),
    ):
        yield from getattr(holder, name, None) or ()


def dashboard_expressions() -> dict[str, str]:
    """The expressions of the dashboard by panel and letter, and those of its annotations."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    return found | {note["name"]: note["expr"] for note in dashboard["annotations"]["list"]}


def alert_rules() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    [group] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def expressions() -> dict[str, str]:
    """All of both."""
    return dashboard_expressions() | {name: rule["expr"] for name, rule in alert_rules().items()}
