"""The OpenAPI description as one page for people: no script, nothing loaded from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from starlette.responses import HTMLResponse, Response

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 14px/1.45 ui-monospace, monospace }
section { border-top: 1px solid #8886; padding: .5rem 0 }
h3 { margin: .5rem 0 0 }
pre { overflow-x: auto; padding: .75rem; background: #8881; border-radius: .375rem }
summary { cursor: pointer }
dt { float: left; clear: left; min-width: 10rem }
"""


def docs_response(openapi: Mapping[str, Any]) -> Response:
    """The page of an OpenAPI description."""
    return HTMLResponse(docs_page(openapi), headers={"content-security-policy": _POLICY})


def docs_page(openapi: Mapping[str, Any]) -> str:
    """Its HTML: every path and method by tag, with parameters and the schema of the body."""
    info = openapi["info"]
    title, parts = escape(info["title"]), "".join(_groups(openapi["paths"]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(info.get('summary', ''))} "
        f'Machines read <a href="openapi.json">openapi.json</a>; gRPC clients ask by reflection.</p>{parts}</html>'
    )


def _groups(paths: Mapping[str, Any]) -> Iterator[str]:
    tagged: dict[str, list[str]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["other"])[0]
            tagged.setdefault(tag, []).append(_operation(path, method, operation))
    for tag, operations in tagged.items():
        yield f"<h2>{escape(tag)}</h2>{''.join(operations)}"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    text = escape(operation.get("description") or operation.get("summary", ""))
    parameters = "".join(map(_parameter, operation.get("parameters", ())))
    listed = f"<dl>{parameters}</dl>" if parameters else ""
    bodies = "".join(_body(kind, body) for kind, body in operation.get("requestBody", {}).get("content", {}).items())
    head = f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
    return f"<section>{head}<p>{text}</p>{listed}{bodies}</section>"


def _parameter(parameter: Mapping[str, Any]) -> str:
    kind = parameter.get("schema", {}).get("type", "")
    needed = "required" if parameter.get("required") else "optional"
    return f"<dt><code>{escape(parameter['name'])}</code></dt><dd>{escape(parameter['in'])}, {kind}, {needed}</dd>"


def _body(kind: str, body: Mapping[str, Any]) -> str:
    schema = escape(json.dumps(body["schema"], indent=2))
    return f"<details><summary>body: <code>{escape(kind)}</code></summary><pre>{schema}</pre></details>"
