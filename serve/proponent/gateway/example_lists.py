"""Pages and counts of training examples, from a bundle's catalog."""

from __future__ import annotations

import math

from proponent.gateway.deployment import BundleHandle
from proponent.gateway.disclosure import Disclosure
from proponent.index.example_list import ExampleFilter
from proponent.index.paging import bad_token, list_key, page_token, token_parts
from proponent.options import OrderBy
from proponent.v1 import explanation_pb2 as pb

DEFAULT_BINS = 40
_ORDERS = {
    pb.ORDER_BY_UNSPECIFIED: OrderBy.SELF_INFLUENCE_DESCENDING,
    **{pb.OrderBy.Value(f"ORDER_BY_{order.name}"): order for order in OrderBy},
}


def list_examples(
    bundle: BundleHandle, request: pb.ListExamplesRequest, size: int, disclosure: Disclosure
) -> pb.ListExamplesResponse:
    """A page of ``size`` examples; raises InvalidInputError for a token of another list."""
    chosen, order, digest = _filter(request), _ORDERS[request.order_by], bundle.manifest.digest
    key = list_key(repr(chosen), order.value)
    forgotten = bundle.tombstones.ids()
    try:
        page = bundle.examples.page(
            chosen,
            order,
            size,
            after=_row(request.page_token, digest, key),
            forgotten=forgotten,
            contents=request.view == pb.VIEW_THUMBNAIL,
        )
    except KeyError:
        raise bad_token() from None
    issues = bundle.examples.issue_place(forgotten)
    return pb.ListExamplesResponse(
        examples=[disclosure.example(entry, bundle.manifest, request.view, issues) for entry in page.entries],
        bundle_digest=digest,
        total=page.total,
        next_page_token="" if page.next is None else page_token(digest, key, page.next),
    )


def summarize_examples(bundle: BundleHandle, request: pb.SummarizeExamplesRequest) -> pb.SummarizeExamplesResponse:
    """Counts by class and by self-influence."""
    names = bundle.manifest.class_names
    found = bundle.summaries.of(len(names), request.bins or DEFAULT_BINS, bundle.tombstones.ids())
    return pb.SummarizeExamplesResponse(
        classes=[
            pb.ClassSummary(class_id=class_id, label=names[class_id], **vars(summary))
            for class_id, summary in enumerate(found.classes)
        ],
        histogram=pb.Histogram(**vars(found.histogram)),
        total=found.total,
        label_issues=sum(summary.label_issues for summary in found.classes),
        bundle_digest=bundle.manifest.digest,
    )


def _filter(request: pb.ListExamplesRequest) -> ExampleFilter:
    return ExampleFilter(
        class_ids=tuple(sorted(set(request.class_ids))),
        predicted_class_ids=tuple(sorted(set(request.predicted_class_ids))),
        disagreeing=request.disagreeing,
        smallest=request.min_self_influence if request.HasField("min_self_influence") else -math.inf,
        largest=request.max_self_influence if request.HasField("max_self_influence") else math.inf,
    )


def _row(token: str, digest: str, key: str) -> int | None:
    """The row that a token names; None where there is no token."""
    if not token:
        return None
    whose, row = token_parts(token, digest, 2)
    if whose != key or not row.isascii() or not row.isdigit() or len(row) > 18:
        raise bad_token()
    return int(row)
