"""Requests that the OpenAPI description allows, and ones that it does not, made and judged by schemathesis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hypothesis
import schemathesis
from fuzz_messages import Words
from fuzz_verdict import http_fault
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks
from schemathesis.core.failures import FailureGroup

LONGEST_S = 30.0
checks.load_all_checks()
_CHECKS = checks.CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)


def send_described(
    url: str,
    count: int,
    seed: int,
    words: Words,
    report: Callable[[str, str], None],
    progress: Callable[[int], None],
) -> None:
    """Sends so many requests; what is found is reported as a command that sends it again, and what it says."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    sent = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(st.one_of(list(_strategies(schema, words))))
    def send(case: Case) -> None:
        nonlocal sent
        sent += 1
        fault = _fault(case)
        if fault:
            report(case.as_curl_command(), fault)
        progress(sent)

    send()


def _strategies(schema: Any, words: Words) -> Iterator[Any]:
    """Each path with any names, and with those that the service knows."""
    known = {
        "model": words.model,
        "version": words.bundles[0],
        "example_id": words.examples[0],
        "sample_id": words.samples[0],
    }
    for found in schema.get_all_operations():
        operation = found.ok()
        names = [name for name in known if f"{{{name}" in operation.path]
        for mode in GenerationMode:
            yield operation.as_strategy(generation_mode=mode)
            if names:
                named: Mapping[str, str] = {name: known[name] for name in names}
                yield operation.as_strategy(generation_mode=mode, path_parameters=dict(named))


def _fault(case: Case) -> str:
    try:
        response = case.call(timeout=LONGEST_S)
    except Exception as error:
        return f"no answer: {error!r}"
    headers = {name: ", ".join(values) for name, values in response.headers.items()}
    own_deadline = "x-request-timeout" in (case.headers or {})
    if fault := http_fault(response.status_code, headers, response.content, own_deadline=own_deadline):
        return fault
    try:
        case.validate_response(response, checks=_CHECKS)
    except FailureGroup as group:
        return "; ".join(f"{type(each).__name__}: {each}" for each in group.exceptions)
    return ""
