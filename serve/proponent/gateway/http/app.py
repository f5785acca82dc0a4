"""The HTTP transport's application: KServe v1 bodies, problem+json errors, health, metrics and OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response

from proponent.errors import ProponentError
from proponent.gateway.http.body import BodyReader
from proponent.gateway.http.direct import DirectRoutes
from proponent.gateway.http.endpoints import InferenceEndpoints, ModelEndpoints, OperationEndpoints
from proponent.gateway.http.explorer import route_explorer
from proponent.gateway.http.middleware import RequestLog
from proponent.gateway.http.openapi import (
    EXPLAIN_BODY,
    METRICS,
    MODEL_READY,
    MODELS,
    PAGE,
    PREDICT_BODY,
    PROBLEMS,
    QUERY_BODY,
    STATUS,
)
from proponent.gateway.http.problem import answer_error
from proponent.gateway.http.schemas import answers, parameters, reply
from proponent.gateway.metrics import Metrics
from proponent.gateway.open_inference.calls import OpenInferenceCalls
from proponent.gateway.open_inference.endpoints import OpenInferenceEndpoints
from proponent.gateway.open_inference.openapi import (
    ERRORS,
    INFER_BODY,
    INFERRED,
    LIVE,
    MODEL_METADATA,
    READY,
    SERVER_METADATA,
)
from proponent.gateway.served_model import Readiness
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.settings import Settings
from proponent.gateway.tracing import Tracing
from proponent.v1 import explanation_pb2 as pb

_MODEL = "/v1/models/{model}"


class _IdConvertor(PathConvertor):
    """An id is any text: with slashes as a path, and with line breaks."""

    regex = r"[\s\S]*"


register_url_convertor("id", _IdConvertor())


def create_app(
    calls: ExplanationCalls,
    metrics: Metrics,
    readiness: Readiness,
    settings: Settings,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application with all its routes."""
    summary = "Predictions and the training examples behind them."
    app = FastAPI(title="proponent", summary=summary, docs_url=None, redoc_url=None)
    app.add_exception_handler(ProponentError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    _route_operation(app, OperationEndpoints(calls, metrics, readiness))
    bodies = BodyReader(settings)
    direct = _route_inference(app, InferenceEndpoints(calls, settings, bodies, metrics))
    _route_models(app, ModelEndpoints(calls))
    _route_open_inference(app, OpenInferenceEndpoints(OpenInferenceCalls(calls, readiness), bodies))
    if settings.serves_explorer:
        route_explorer(app)
    app.add_middleware(DirectRoutes, routes=direct)
    app.add_middleware(RequestLog, metrics=metrics, tracing=tracing or Tracing())  # the last one is the first asked
    return app


def _route_operation(app: FastAPI, endpoints: OperationEndpoints) -> None:
    for path, endpoint, responses in (
        ("/healthz", endpoints.healthz, STATUS),
        ("/readyz", endpoints.readyz, STATUS | PROBLEMS),
        (f"{_MODEL}:ready", endpoints.model_ready, MODEL_READY | PROBLEMS),
        ("/docs", endpoints.docs, PAGE),
        ("/metrics", endpoints.metrics, METRICS | PROBLEMS),
    ):
        app.get(path, responses=responses, response_class=Response, tags=["operation"])(endpoint)


def _route_inference(app: FastAPI, endpoints: InferenceEndpoints) -> dict[str, APIRoute]:
    """The routes by the verb that their paths end with."""
    router = APIRouter()
    predictions = answers(predictions=pb.Prediction)
    explanations = answers(predictions=pb.Prediction, explanations=pb.ExplainResponse)
    for verb, endpoint, body, answered in (
        ("predict", endpoints.predict, PREDICT_BODY, predictions),
        ("explain", endpoints.explain, EXPLAIN_BODY, explanations),
        ("scoreExamples", endpoints.score_examples, QUERY_BODY, reply(pb.ScoreExamplesResponse)),
        ("highlightExamples", endpoints.highlight_examples, QUERY_BODY, reply(pb.HighlightExamplesResponse)),
        ("estimateRemoval", endpoints.estimate_removal, QUERY_BODY, reply(pb.EstimateRemovalResponse)),
        ("findFlipSet", endpoints.find_flip_set, QUERY_BODY, reply(pb.FindFlipSetResponse)),
    ):
        responses = answered | PROBLEMS
        router.post(f"{_MODEL}:{verb}", openapi_extra=body, responses=responses, tags=["inference"])(endpoint)
    app.include_router(router)
    return {route.path.rpartition(":")[2]: route for route in router.routes if isinstance(route, APIRoute)}


def _route_open_inference(app: FastAPI, endpoints: OpenInferenceEndpoints) -> None:
    described: dict[str, Any] = {"responses": ERRORS, "tags": ["open inference protocol"]}
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    for path, endpoint, schema in (
        ("/v2", endpoints.server_metadata, SERVER_METADATA),
        ("/v2/health/live", endpoints.live, LIVE),
        ("/v2/health/ready", endpoints.ready, READY),
        (model, endpoints.model_metadata, MODEL_METADATA),
        (version, endpoints.version_metadata, MODEL_METADATA),
        (f"{model}/ready", endpoints.model_ready, MODEL_READY),
        (f"{version}/ready", endpoints.version_ready, MODEL_READY),
    ):
        app.get(path, **{**described, "responses": schema | ERRORS})(endpoint)
    app.get("/v2/", include_in_schema=False)(endpoints.server_metadata)
    for path, infer in ((model, endpoints.infer), (version, endpoints.version_infer)):
        app.post(f"{path}/infer", openapi_extra=INFER_BODY, **{**described, "responses": INFERRED | ERRORS})(infer)


def _route_models(app: FastAPI, endpoints: ModelEndpoints) -> None:
    app.get("/v1/models", responses=MODELS | PROBLEMS, tags=["models"])(endpoints.list_models)
    named = {"name": {"type": "string"}, "ready": {"type": "boolean"}}
    app.get(_MODEL, responses=reply(pb.GetModelResponse, named) | PROBLEMS, tags=["models"])(endpoints.get_model)
    for path, endpoint, asked, answered in (
        ("suspects", endpoints.list_suspects, pb.ListSuspectsRequest, pb.ListSuspectsResponse),
        ("examples", endpoints.list_examples, pb.ListExamplesRequest, pb.ListExamplesResponse),
        ("examples:summary", endpoints.summarize_examples, pb.SummarizeExamplesRequest, pb.SummarizeExamplesResponse),
        (
            "frequentExamples",
            endpoints.list_frequent_examples,
            pb.ListFrequentExamplesRequest,
            pb.ListFrequentExamplesResponse,
        ),
        ("samples", endpoints.list_samples, pb.ListSamplesRequest, pb.ListSamplesResponse),
        ("samples/{sample_id:id}", endpoints.get_sample, pb.GetSampleRequest, pb.GetSampleResponse),
        ("bundles", endpoints.list_bundles, pb.ListBundlesRequest, pb.ListBundlesResponse),
        ("bundles:diff", endpoints.diff_bundles, pb.DiffBundlesRequest, pb.DiffBundlesResponse),
    ):
        described: dict[str, Any] = {
            "openapi_extra": parameters(asked),
            "responses": reply(answered) | PROBLEMS,
            "tags": ["models"],
        }
        app.get(f"{_MODEL}/{path}", **described)(endpoint)
    example: dict[str, Any] = {"responses": reply(pb.Example) | PROBLEMS, "tags": ["models"]}
    app.get(f"{_MODEL}/examples/{{example_id:id}}", **example)(endpoints.get_model_example)
    app.get("/v1/examples/{example_id:id}", **example)(endpoints.get_example)
