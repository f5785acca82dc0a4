"""What is answered before the framework looks is what its own routes would have matched, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi.routing import APIRoute
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, Response

from proponent.gateway.http.direct import DirectRoutes


async def named(_: Any, model: str) -> Response:
    return PlainTextResponse(f"direct {model}")


ROUTES = {verb: APIRoute(f"/v1/models/{{model}}:{verb}", named, methods=["POST"]) for verb in ("predict", "explain")}
PARTS = st.sampled_from(["/v1/models/", "/v1/models", "/", ":", "predict", "explain", "toy", "é", ":predict", "\n"])
PATHS = st.lists(PARTS, max_size=5).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9).map(
    lambda model: f"/v1/models/{model}:predict"
)


async def rest(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("rest")(scope, receive, send)


def answered(method: str, path: str) -> str:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "state": {}}
    asyncio.run(DirectRoutes(rest, ROUTES)(scope, None, send))  # type: ignore[arg-type]
    return str(sent[-1]["body"].decode())


@given(PATHS, st.sampled_from(["POST", "POST", "GET"]))
@example("/v1/models/toy:2:predict", "POST")
def test_a_path_is_taken_as_the_framework_takes_it(path: str, method: str) -> None:
    found = next((match for route in ROUTES.values() if (match := route.path_regex.fullmatch(path))), None)
    expected = f"direct {found['model']}" if found and method == "POST" else "rest"
    assert answered(method, path) == expected


def test_what_is_no_request_of_http_is_passed_on() -> None:
    seen: list[str] = []

    async def note(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(DirectRoutes(note, ROUTES)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
