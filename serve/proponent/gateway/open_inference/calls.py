"""The protocol's calls, whatever the transport: each is answered by the service's own, with all that those check."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from proponent.errors import NotFoundError, ProponentError
from proponent.gateway.auth import require_scope
from proponent.gateway.call import CallContext, Method
from proponent.gateway.concurrency import Admitted, map_in_order
from proponent.gateway.deployment import Deployment
from proponent.gateway.error_mapping import as_proponent_error
from proponent.gateway.open_inference.metadata import model_metadata, server_metadata
from proponent.gateway.open_inference.queries import Query, requests_of, row_error
from proponent.gateway.open_inference.tensors import OutputTensor
from proponent.gateway.prediction_when_late import lane_needed
from proponent.gateway.privacy.levels import require_level
from proponent.gateway.served_model import Readiness, ServedModel
from proponent.gateway.service import ExplanationCalls
from proponent.gateway.validation import check_replies
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import open_inference_pb2 as oip

SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_SHORTEST_VERSION = 4
# What takes a few milliseconds of the event loop to become tensors.
_INLINE_BYTES = 64 << 10


@dataclass(frozen=True)
class Inferred:
    """The reply to a batch, before a transport writes it.

    Attributes:
        model: Its name.
        version: Digest of the bundle that answered.
        id: The request's.
        outputs: In the order asked for.
    """

    model: str
    version: str
    id: str
    outputs: Sequence[OutputTensor]

    def message(self, *, raw: bool) -> oip.ModelInferResponse:
        """As gRPC has it; ``raw`` puts the values beside the outputs."""
        reply = oip.ModelInferResponse(model_name=self.model, model_version=self.version, id=self.id)
        for output in self.outputs:
            written = reply.outputs.add(name=output.name, datatype=output.datatype, shape=output.values.shape)
            if raw:
                reply.raw_output_contents.append(output.raw())
            else:
                written.contents.CopyFrom(output.contents())
        return reply


class OpenInferenceCalls:
    """The protocol's calls over those of the service; all raise ProponentError and nothing else on bad input.

    Attributes:
        calls: The service's own.
        methods: By the protocol's names, as gRPC serves them.
    """

    def __init__(self, calls: ExplanationCalls, readiness: Readiness) -> None:
        self.calls = calls
        self._readiness = readiness
        self.methods = {
            "ServerLive": Method(oip.ServerLiveRequest, None, self._live, public=True),
            "ServerReady": Method(oip.ServerReadyRequest, None, self._server_ready, public=True),
            "ModelReady": Method(oip.ModelReadyRequest, None, self._model_ready, public=True),
            "ServerMetadata": Method(oip.ServerMetadataRequest, None, self._server_metadata, public=True),
            "ModelMetadata": Method(oip.ModelMetadataRequest, None, self._model_metadata),
            "ModelInfer": Method(oip.ModelInferRequest, None, self._model_infer),
        }

    def error(self) -> ProponentError | None:
        """Why not every model can answer; None where all can."""
        return self._readiness.error_of_all()

    def error_of(self, name: str, version: str) -> ProponentError | None:
        """Why a model cannot answer; None where it can. Raises NotFoundError for what is not served."""
        error = self._readiness.error_of(name)
        if version:
            self.deployment(self.calls.model_named(name), version)
        return error

    def metadata(self, name: str, version: str) -> oip.ModelMetadataResponse:
        """Describes a model; raises NotFoundError."""
        return model_metadata(self.deployment(self.calls.model_named(name), version).manifest)

    def deployment(self, model: ServedModel, version: str) -> Deployment:
        """Where requests for a version go; raises NotFoundError where another one is served."""
        deployment = model.deployment
        served = deployment.manifest.digest
        if version and not (served.startswith(version) and len(version) >= _SHORTEST_VERSION):
            message = f"version {version!r:.80} of model {model.name!r} is not served (served: {served})"
            raise NotFoundError(message, field="model_version", reason="BUNDLE_UNKNOWN")
        return deployment

    async def infer(self, request: oip.ModelInferRequest, context: CallContext) -> Inferred:
        """Predicts, and where it is asked for explains, each row of a batch; the first error fails them all."""
        query = Query.of(request)
        name = "Explain" if query.explains else "Predict"
        method = self.calls.methods[name]
        if method.scope is not None:
            require_scope(context.caller.scopes, method.scope)
        for output in query.outputs:
            require_level(context.caller.level, output.level, f"output {output.name!r}", "outputs")
        served = self.calls.model_named(request.model_name, "model_name")
        deployment = self.deployment(served, request.model_version)
        messages = requests_of(request, query, deployment.manifest, self.calls.settings)
        served.require_ready(lane_needed(method.lane, messages))
        if len(messages) > 1 and query.explains:
            check_replies(messages, deployment.manifest, self.calls.settings)
        context = replace(_within(context, query.timeout_s), deployment=deployment)
        with deployment.in_use():
            replies = await self._replies(method, messages, request, context)
            outputs = await _outputs(query, replies)
        return Inferred(request.model_name, deployment.manifest.digest, request.id, outputs)

    async def _replies(
        self, method: Method, messages: Sequence[Any], request: oip.ModelInferRequest, context: CallContext
    ) -> list[Any]:
        async def run(position: int, admitted: Admitted | None) -> Any:
            try:
                return await method.run(messages[position], replace(context, admitted=admitted))
            except Exception as error:
                raise row_error(as_proponent_error(error, context.request_id), request, position) from None

        return await map_in_order(len(messages), run, self.calls.settings.max_parts)

    async def _live(self, _: oip.ServerLiveRequest, context: CallContext) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def _server_ready(self, _: oip.ServerReadyRequest, context: CallContext) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self.error() is None)

    async def _model_ready(self, request: oip.ModelReadyRequest, context: CallContext) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=self.error_of(request.name, request.version) is None)

    async def _server_metadata(
        self, _: oip.ServerMetadataRequest, context: CallContext
    ) -> oip.ServerMetadataResponse:
        return server_metadata()

    async def _model_metadata(
        self, request: oip.ModelMetadataRequest, context: CallContext
    ) -> oip.ModelMetadataResponse:
        return self.metadata(request.name, request.version)

    async def _model_infer(self, request: oip.ModelInferRequest, context: CallContext) -> oip.ModelInferResponse:
        return (await self.infer(request, context)).message(raw=bool(request.raw_input_contents))


def _within(context: CallContext, timeout_s: float | None) -> CallContext:
    """The context of a call that may last no longer than this."""
    if timeout_s is None:
        return context
    return replace(context, timeout_s=min(timeout_s, math.inf if context.timeout_s is None else context.timeout_s))


async def _outputs(query: Query, replies: Sequence[pb.ExplainResponse | pb.PredictResponse]) -> list[OutputTensor]:
    def read() -> list[OutputTensor]:
        return [output.of(replies) for output in query.outputs]

    if sum(reply.ByteSize() for reply in replies) <= _INLINE_BYTES:
        return read()
    return await asyncio.to_thread(read)
