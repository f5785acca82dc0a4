"""The calls that need no worker: what the files of the served bundle say, and of those in the store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from proponent.errors import NotFoundError
from proponent.gateway import lookups, sample_lists
from proponent.gateway.auth import Scope, require_scope
from proponent.gateway.bundle_diff import diff_bundles
from proponent.gateway.call import CallContext, Method
from proponent.gateway.disclosure import Disclosure
from proponent.gateway.error_mapping import public_text
from proponent.gateway.example_lists import list_examples, summarize_examples
from proponent.gateway.privacy.levels import require_level
from proponent.gateway.served_model import ServedModel
from proponent.gateway.settings import Settings
from proponent.gateway.stored_bundles import list_bundles
from proponent.gateway.validation import check_example_filter, check_group_size, check_rules
from proponent.index.store import Store
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb

DEFAULT_PAGE = 100


class LookupCalls:
    """The public calls that are answered by this process alone; all raise ProponentError and nothing else.

    Attributes:
        models: What is served, by name.
        settings: The operator's.
        disclosure: What the operator permits.
        lookups: The calls by the proto's name.
    """

    def __init__(self, models: Mapping[str, ServedModel], settings: Settings) -> None:
        self.models = models
        self.settings = settings
        self.disclosure = Disclosure(settings.allow_examples, settings.allow_thumbnails, settings.allow_samples)
        ids = DisclosureLevel.RANKS
        self.lookups = {
            "GetModel": Method(pb.GetModelRequest, None, self.get_model),
            "ListModels": Method(pb.ListModelsRequest, None, self.list_models),
            "GetExample": Method(pb.GetExampleRequest, Scope.EXAMPLES, self.get_example, ids),
            "ListSuspects": Method(pb.ListSuspectsRequest, Scope.EXPLAIN, self.list_suspects, ids),
            "ListExamples": Method(pb.ListExamplesRequest, Scope.EXAMPLES, self.list_examples, ids),
            "SummarizeExamples": Method(pb.SummarizeExamplesRequest, Scope.EXPLAIN, self.summarize_examples),
            "ListSamples": Method(pb.ListSamplesRequest, Scope.EXAMPLES, self.list_samples),
            "GetSample": Method(pb.GetSampleRequest, Scope.EXAMPLES, self.get_sample),
            "ListFrequentExamples": Method(
                pb.ListFrequentExamplesRequest, Scope.EXPLAIN, self.list_frequent_examples, ids
            ),
            "ListBundles": Method(pb.ListBundlesRequest, Scope.EXPLAIN, self.list_bundles),
            "DiffBundles": Method(pb.DiffBundlesRequest, Scope.EXPLAIN, self.diff_bundles),
        }

    async def get_model(self, request: pb.GetModelRequest, context: CallContext) -> pb.GetModelResponse:
        """Describes a model, its bundle, and what the caller may see of it."""
        check_rules(request)
        model = self.model_named(request.model)
        reply = await lookups.in_thread(model.deployment, lookups.describe_model)
        if model.error is not None:
            reply.unavailable_reason = model.error.reason
            reply.unavailable_detail = public_text(model.error.message)
        if Scope.EXAMPLES in context.caller.scopes:
            reply.allow_examples = self.disclosure.sources
            reply.allow_thumbnails = self.disclosure.thumbnails
            reply.allow_samples = self.disclosure.samples
        return reply

    async def list_models(self, request: pb.ListModelsRequest, context: CallContext) -> pb.ListModelsResponse:
        """Says of each model whether it can answer."""
        return pb.ListModelsResponse(models=[_status(self.models[name]) for name in sorted(self.models)])

    async def get_example(self, request: pb.GetExampleRequest, context: CallContext) -> pb.GetExampleResponse:
        """Looks up one training example."""
        self.disclosure.require_examples()
        check_rules(request)
        deployment = self.model_named(request.model).deployment
        found = partial(lookups.find_example, example_id=request.example_id, disclosure=self.disclosure)
        return await lookups.in_thread(deployment, found)

    async def list_suspects(self, request: pb.ListSuspectsRequest, context: CallContext) -> pb.ListSuspectsResponse:
        """Ranks training examples by self-influence."""
        check_rules(request)
        check_group_size(request.limit, self.settings.max_suspects, "limit")
        look = partial(lookups.list_suspects, request=request)
        return await lookups.in_thread(self.model_named(request.model).deployment, look)

    async def list_examples(self, request: pb.ListExamplesRequest, context: CallContext) -> pb.ListExamplesResponse:
        """A page of training examples."""
        self.disclosure.require_examples()
        check_rules(request)
        self.allow_view(request.view, context)
        size = self._page_size(request.page_size, request.view, "page_size")
        self._allow_filter(request, context)
        deployment = self.model_named(request.model).deployment
        check_example_filter(request, len(deployment.manifest.class_names))
        look = partial(list_examples, request=request, size=size, disclosure=self.disclosure)
        return await lookups.in_thread(deployment, look)

    async def summarize_examples(
        self, request: pb.SummarizeExamplesRequest, context: CallContext
    ) -> pb.SummarizeExamplesResponse:
        """Counts training examples."""
        check_rules(request)
        look = partial(summarize_examples, request=request)
        return await lookups.in_thread(self.model_named(request.model).deployment, look)

    async def list_samples(self, request: pb.ListSamplesRequest, context: CallContext) -> pb.ListSamplesResponse:
        """A page of the held-out inputs that the bundle keeps."""
        self.disclosure.require_samples()
        check_rules(request)
        size = self._page_size(request.page_size, request.view, "page_size")
        look = partial(sample_lists.list_samples, request=request, size=size)
        return await lookups.in_thread(self.model_named(request.model).deployment, look)

    async def get_sample(self, request: pb.GetSampleRequest, context: CallContext) -> pb.GetSampleResponse:
        """One of these inputs, whole."""
        self.disclosure.require_samples()
        check_rules(request)
        look = partial(sample_lists.get_sample, request=request)
        return await lookups.in_thread(self.model_named(request.model).deployment, look)

    async def list_frequent_examples(
        self, request: pb.ListFrequentExamplesRequest, context: CallContext
    ) -> pb.ListFrequentExamplesResponse:
        """The training examples that stand in most lists of the samples."""
        check_rules(request)
        self.allow_view(request.view, context)
        size = self._page_size(request.limit, request.view, "limit")
        look = partial(sample_lists.list_frequent_examples, request=request, size=size, disclosure=self.disclosure)
        return await lookups.in_thread(self.model_named(request.model).deployment, look)

    async def list_bundles(self, request: pb.ListBundlesRequest, context: CallContext) -> pb.ListBundlesResponse:
        """The bundles of a model in the store."""
        check_rules(request)
        model = self.model_named(request.model)
        return await lookups.off_loop(list_bundles, Store(self.settings.store), model.name)

    async def diff_bundles(self, request: pb.DiffBundlesRequest, context: CallContext) -> pb.DiffBundlesResponse:
        """Compares the lists of two bundles."""
        check_rules(request)
        served = self.model_named(request.model).deployment.manifest.digest
        samples = self.disclosure.samples and Scope.EXAMPLES in context.caller.scopes
        return await lookups.off_loop(diff_bundles, Store(self.settings.store), request, served, samples=samples)

    def model_named(self, name: str, field: str = "model") -> ServedModel:
        """A model that is served; raises NotFoundError, which names those that are."""
        model = self.models.get(name)
        if model is None:
            raise NotFoundError(
                f"model {name!r} is unknown (models: {', '.join(self.models)})", field=field, reason="MODEL_UNKNOWN"
            )
        return model

    def allow_view(self, view: int, context: CallContext) -> None:
        """Raises PermissionDeniedError where the caller may not see so much of training examples."""
        if view in (pb.VIEW_UNSPECIFIED, pb.VIEW_ID_ONLY):
            return
        require_scope(context.caller.scopes, Scope.EXAMPLES)
        self.disclosure.require_view(view)

    def allow_exclusion(self, chosen: pb.Filter, context: CallContext) -> None:
        """Refuses ids where none are told: what changes without an example tells whether, and where, it stood."""
        if chosen.exclude_example_ids:
            field = "filter.exclude_example_ids"
            require_level(context.caller.level, DisclosureLevel.RANKS, f"field {field!r}", field)

    def _allow_filter(self, request: pb.ListExamplesRequest, context: CallContext) -> None:
        """Refuses bounds of self-influence where it is not told: a search would find it."""
        for field in ("min_self_influence", "max_self_influence"):
            if request.HasField(field):
                require_level(context.caller.level, DisclosureLevel.FULL, f"field {field!r}", field)

    def _page_size(self, asked: int, view: int, field: str) -> int:
        """Rows of a page; raises InvalidInputError where they are more than the operator allows."""
        most = self.settings.max_suspects
        if view == pb.VIEW_THUMBNAIL:
            most = min(most, self.settings.max_thumbnails)
        check_group_size(asked, most, field)
        return asked or min(DEFAULT_PAGE, most)


def _status(model: ServedModel) -> pb.ModelStatus:
    if model.error is None:
        return pb.ModelStatus(name=model.name, ready=True)
    detail = public_text(model.error.message)
    return pb.ModelStatus(name=model.name, unavailable_reason=model.error.reason, unavailable_detail=detail)
