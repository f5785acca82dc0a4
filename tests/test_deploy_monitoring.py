"""Dashboard and alert rules are what Grafana and Prometheus take, and every alert has its remedy."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from promql import ALERTS, DASHBOARD, DEPLOY, TARGET_LABELS, Selected, alert_rules, expressions, selected
from promql_instant import found
from proponent.gateway.metrics import Metrics
from test_architecture import PACKAGE, ROOT

PROVISIONED = DEPLOY / "grafana" / "provisioning"
OPERATIONS = ROOT / "docs" / "operations.md"
DURATION = re.compile(r"\d+[smhd]")


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", expressions())
def test_every_expression_is_promql_and_asks_for_something(name: str) -> None:
    assert selected(expressions()[name])


def test_what_an_expression_asks_for_is_found_in_it() -> None:
    text = 'sum by (le) (rate(a{x=~"1|2"}[5m])) / on (y) group_left (z) max(b{w!="v"}) unless c offset 1d'
    first, second, third = selected(text)
    assert first == Selected("a", (("x", "=~", "1|2"),), frozenset({"le", "y", "z"}))
    assert second.labels == {"w", "y", "z"} and third == Selected("c", (), frozenset())
    assert first.matches({"x": "2"}) and not first.matches({"x": "12"}) and not first.matches({})
    assert second.matches({}) and not second.matches({"w": "v"})
    with pytest.raises(ValueError, match="paren"):
        selected("sum(rate(a[5m])")


def test_grafanas_own_types_lose_nothing_of_the_dashboard() -> None:
    content = dashboard()
    assert _lost(content, json.loads(JSONEncoder().encode(Dashboard.from_json(content)))) == []


def _lost(given: Any, kept: Any, path: str = "") -> list[str]:
    if isinstance(given, dict):
        return [p for key, value in given.items() for p in _lost(value, (kept or {}).get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [p for n, value in enumerate(given) for p in _lost(value, kept[n], f"{path}[{n}]")]
    return [] if given == kept or (given in ([], {}) and not kept) else [path]


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_grafana_is_provisioned_with_this_dashboard_and_the_data_source_it_can_choose() -> None:
    [provider] = yaml.safe_load((PROVISIONED / "dashboards" / "proponent.yaml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"] == "/etc/grafana/dashboards"
    [source] = yaml.safe_load((PROVISIONED / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    chosen, *_ = dashboard()["templating"]["list"]
    assert (chosen["type"], chosen["query"]) == ("datasource", source["type"])


@pytest.mark.parametrize("name", alert_rules())
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_the_remedy_stands(name: str) -> None:
    rule = alert_rules()[name]
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert DURATION.fullmatch(rule.get("for", "1m"))
    assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("critical", "warning", "info")
    told = rule["annotations"]
    assert told.keys() == {"summary", "description", "runbook"}
    assert told["runbook"] == f"docs/operations.md#{name.lower()}"
    asked = {label for each in selected(rule["expr"]) for label in each.labels}
    assert set(re.findall(r"\$labels\.(\w+)", told["summary"])) <= asked | _all_labels(rule["expr"])


def _all_labels(expression: str) -> set[str]:
    """Labels of a result that is not aggregated: those of the metrics themselves."""
    plain = not re.search(r"\b(sum|count|max)\b", expression)
    return {"instance", "job", "model", "operation", "lane"} if plain else set()


@pytest.mark.parametrize("name", alert_rules())
def test_every_alert_has_its_remedy(name: str) -> None:
    sections = re.split(r"^### ", OPERATIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    [section] = [each for each in sections if each.startswith(f"{name}\n")]
    assert len(section.split()) >= 30, f"{name}: say what it means and what to do"


def test_every_remedy_belongs_to_an_alert() -> None:
    named = re.findall(r"^### (Proponent\w+)$", OPERATIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(named) == sorted(alert_rules())


def test_reasons_and_codes_that_are_asked_for_exist() -> None:
    """They are those of errors that a healthy service does not have."""
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    codes = {code.name for code in grpc.StatusCode}
    for each in (s for text in expressions().values() for s in selected(text)):
        for label, _, value in each.matchers:
            if label == "error_type":
                assert all(f'"{reason}"' in source for reason in value.split("|")), value
            if label == "rpc_response_status_code":
                assert set(value.split("|")) <= codes, value


def test_the_rules_lie_where_prometheus_looks_for_them() -> None:
    assert ALERTS.is_file()
    config = yaml.safe_load((ALERTS.parent / "prometheus.yaml").read_text())
    assert config["rule_files"] == [f"/etc/prometheus/{ALERTS.name}"]
    assert [job["job_name"] for job in config["scrape_configs"]] == ["proponent"]


def test_every_metric_and_label_that_is_asked_for_is_one_of_the_gateways() -> None:
    """Those of the real gateway are looked at end to end; this one sees a new name at once."""
    known: dict[str, set[str]] = {}
    for collector, names in Metrics()._registry._collector_to_names.items():
        labels = {*getattr(collector, "_labelnames", getattr(collector, "labels", ())), "le"}
        known.update((name, labels) for name in names)
    for where, expression in expressions().items():
        for asked in selected(expression):
            if asked.metric != "up" and not asked.metric.startswith("process_"):
                assert asked.metric in known, f"{where}: no metric {asked.metric}"
                assert asked.labels - TARGET_LABELS <= known[asked.metric], f"{where}: {asked}"


def test_a_lane_without_workers_is_told_apart_from_a_model_without_any() -> None:
    """The same rule is asked of a real gateway end to end; this one sees at once what it takes for a fault."""
    rule = alert_rules()["ProponentLaneNotReady"]["expr"]

    def told(**ready: tuple[int, int]) -> list[tuple[str, str]]:
        metrics = Metrics()
        for model, states in ready.items():
            for lane, state in zip(("predictions", "explanations"), states, strict=True):
                metrics.lane_ready.labels(model, lane).set(state)
        return [(each["model"], each["lane"]) for each in found(rule, metrics.exposition()[0].decode())]

    assert told(a=(1, 1), b=(0, 0)) == []
    assert told(a=(1, 0), b=(0, 1), c=(1, 1)) == [("a", "explanations"), ("b", "predictions")]
