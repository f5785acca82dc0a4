"""The protocol's paths over HTTP. The docstrings of endpoints are their descriptions in OpenAPI."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.responses import JSONResponse, Response

from proponent.errors import ProponentError
from proponent.gateway.http.body import BodyReader
from proponent.gateway.http.endpoints import permitted, while_connected
from proponent.gateway.http.problem import problem_response
from proponent.gateway.http.reply import json_response
from proponent.gateway.open_inference.calls import OpenInferenceCalls
from proponent.gateway.open_inference.metadata import server_metadata
from proponent.gateway.open_inference.rest_body import CONTENT_TYPES, header_length, infer_request_of, infer_response


@dataclass(frozen=True)
class OpenInferenceEndpoints:
    """What stands behind the paths below ``/v2``."""

    open_inference: OpenInferenceCalls
    bodies: BodyReader

    async def live(self) -> Response:
        """Whether the process lives."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """Whether every model can answer; 503 says why one cannot."""
        error = self.open_inference.error()
        return _not_ready(error) if error else JSONResponse({"live": True, "ready": True})

    async def model_ready(self, model: str) -> Response:
        """Whether a model can answer; 503 says why it cannot."""
        return self._model_ready(model, "")

    async def version_ready(self, model: str, version: str) -> Response:
        """Whether a version of a model can answer; 404 where another one is served."""
        return self._model_ready(model, version)

    async def server_metadata(self) -> Response:
        """Name the server, its version and its extensions."""
        return json_response(server_metadata())

    async def model_metadata(self, request: Request, model: str) -> Response:
        """Describe what a model takes and gives."""
        return self._metadata(request, model, "")

    async def version_metadata(self, request: Request, model: str, version: str) -> Response:
        """Describe what a version of a model takes and gives."""
        return self._metadata(request, model, version)

    async def infer(self, request: Request, model: str) -> Response:
        """Predict a batch of inputs, and explain each where an output or parameter asks for it."""
        return await self._infer(request, model, "")

    async def version_infer(self, request: Request, model: str, version: str) -> Response:
        """The same by a version of the model."""
        return await self._infer(request, model, version)

    def _model_ready(self, model: str, version: str) -> Response:
        error = self.open_inference.error_of(model, version)
        return _not_ready(error) if error else JSONResponse({"name": model, "ready": True})

    def _metadata(self, request: Request, model: str, version: str) -> Response:
        permitted(self.open_inference.calls, request, None)
        return json_response(self.open_inference.metadata(model, version))

    async def _infer(self, request: Request, model: str, version: str) -> Response:
        calls = self.open_inference.calls
        context = permitted(calls, request, None)
        with calls.bodies.reservation(context.caller) as reservation:
            head_bytes = header_length(request.headers)
            message = await self.bodies.converted(
                request, reservation, CONTENT_TYPES, infer_request_of, head_bytes, model, version
            )
            work = self.open_inference.infer(message, calls.timed(context))
            return infer_response(await while_connected(request, work), message)


def _not_ready(error: ProponentError) -> Response:
    return problem_response(error, status=503, media_type="application/json")
