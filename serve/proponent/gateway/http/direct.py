"""The paths that most requests go to, answered before the framework looks for them.

Its way to an endpoint, through its middleware and its routers, costs more than a prediction's own code does. It knows
these routes as well, to describe them.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from proponent.errors import ProponentError
from proponent.gateway.http.problem import answer_error

_MODELS = "/v1/models/"


class DirectRoutes:
    """ASGI middleware.

    Args:
        app: Answers all other requests.
        routes: What is posted to ``/v1/models/{model}:VERB``, by the verb.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, APIRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request of one of the routes, or passes it on."""
        model, verb = _named(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else ("", "")
        route = self._routes.get(verb)
        if route is None or not model:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request, model)
        except ProponentError as error:
            response = await answer_error(request, error)
        await response(scope, receive, send)


def _named(path: str) -> tuple[str, str]:
    """Model and verb of a path; empty where it is another one."""
    rest = path.removeprefix(_MODELS)
    if rest is path or "/" in rest:
        return "", ""
    model, _, verb = rest.rpartition(":")
    return model, verb
