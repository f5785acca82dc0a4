"""The calls that list something: of each its request and how its reply is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from proponent.client.replies import disclosure_level_of, example_of, values_of
from proponent.client.rpcs import Rpc
from proponent.listings import (
    BundleDiff,
    BundleInfo,
    Bundles,
    ClassSummary,
    DiffSummary,
    ExamplePage,
    ExampleSummary,
    FrequentExamples,
    Sample,
    SampleDiff,
    SamplePage,
)
from proponent.options import ExampleQuery, Measure, Side, View
from proponent.tensor_messages import array_of
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb


def list_samples(model: str, page_size: int, page_token: str, view: View) -> Rpc[SamplePage]:
    """A page of samples."""
    request = pb.ListSamplesRequest(model=model, page_size=page_size, page_token=page_token, view=f"VIEW_{view.name}")
    return Rpc("ListSamples", request, _sample_page)


def get_sample(model: str, sample_id: str) -> Rpc[Sample]:
    """A sample with its input."""
    return Rpc(
        "GetSample", pb.GetSampleRequest(model=model, sample_id=sample_id), lambda reply: _sample(reply.sample)
    )


def list_examples(model: str, query: ExampleQuery, page_size: int, page_token: str, view: View) -> Rpc[ExamplePage]:
    """A page of training examples."""
    request = pb.ListExamplesRequest(
        model=model,
        class_ids=query.class_ids,
        predicted_class_ids=query.predicted_class_ids,
        disagreeing=query.disagreeing,
        min_self_influence=query.min_self_influence,
        max_self_influence=query.max_self_influence,
        order_by=f"ORDER_BY_{query.order_by.name}",
        page_size=page_size,
        page_token=page_token,
        view=f"VIEW_{view.name}",
    )
    return Rpc("ListExamples", request, _example_page)


def summarize_examples(model: str, bins: int) -> Rpc[ExampleSummary]:
    """Counts of training examples."""
    return Rpc("SummarizeExamples", pb.SummarizeExamplesRequest(model=model, bins=bins), _example_summary)


def list_frequent_examples(
    model: str, measure: Measure, side: Side | None, top_k: int | None, limit: int, view: View
) -> Rpc[FrequentExamples]:
    """The training examples that stand in most lists."""
    request = pb.ListFrequentExamplesRequest(
        model=model,
        measure=f"MEASURE_{measure.name}",
        side=f"SIDE_{side.name}" if side else pb.SIDE_UNSPECIFIED,
        top_k=top_k,
        limit=limit,
        view=f"VIEW_{view.name}",
    )
    return Rpc("ListFrequentExamples", request, _frequent_examples)


def list_bundles(model: str) -> Rpc[Bundles]:
    """The bundles of the store."""
    return Rpc("ListBundles", pb.ListBundlesRequest(model=model), _bundles)


def diff_bundles(model: str, base: str, other: str, measure: Measure, top_k: int | None) -> Rpc[BundleDiff]:
    """What changed between two of them."""
    request = pb.DiffBundlesRequest(
        model=model, base=base, other=other, measure=f"MEASURE_{measure.name}", top_k=top_k
    )
    return Rpc("DiffBundles", request, _bundle_diff)


def _sample_page(reply: pb.ListSamplesResponse) -> SamplePage:
    samples = tuple(map(_sample, reply.samples))
    return SamplePage(samples, reply.bundle_digest, reply.total, reply.next_page_token)


def _sample(message: pb.Sample) -> Sample:
    return Sample(
        sample_id=message.sample_id,
        class_id=message.class_id,
        label=message.label,
        predicted_class_id=message.predicted_class_id,
        input=_input(message),
        thumbnail=message.thumbnail,
    )


def _input(message: pb.Sample) -> Any:
    kind = message.WhichOneof("input")
    if kind == "text":
        return Text(message.text)
    if kind == "record":
        return MessageToDict(message.record)
    if kind == "tensors":
        return {name: array_of(tensor) for name, tensor in message.tensors.tensors.items()}
    return array_of(message.tensor) if kind == "tensor" else message.encoded_image or None


def _example_page(reply: pb.ListExamplesResponse) -> ExamplePage:
    examples = tuple(map(example_of, reply.examples))
    return ExamplePage(examples, reply.bundle_digest, reply.total, reply.next_page_token)


def _example_summary(reply: pb.SummarizeExamplesResponse) -> ExampleSummary:
    return ExampleSummary(
        classes=_all(ClassSummary, reply.classes),
        edges=tuple(reply.histogram.edges),
        counts=tuple(reply.histogram.counts),
        zeros=reply.histogram.zeros,
        total=reply.total,
        label_issues=reply.label_issues,
        bundle_digest=reply.bundle_digest,
    )


def _frequent_examples(reply: pb.ListFrequentExamplesResponse) -> FrequentExamples:
    return FrequentExamples(
        examples=tuple((example_of(each.example), each.count) for each in reply.examples),
        lists=reply.lists,
        slots=reply.slots,
        distinct=reply.distinct,
        top_k=reply.top_k,
        max_top_k=reply.max_top_k,
        samples=reply.samples,
        bundle_digest=reply.bundle_digest,
    )


def _bundles(reply: pb.ListBundlesResponse) -> Bundles:
    return Bundles(
        tuple(BundleInfo(**values_of(each) | {"audit": MessageToDict(each.audit)}) for each in reply.bundles)
    )


def _bundle_diff(reply: pb.DiffBundlesResponse) -> BundleDiff:
    return BundleDiff(
        base=reply.base,
        other=reply.other,
        measure=Measure[pb.Measure.Name(reply.measure).removeprefix("MEASURE_")],
        top_k=reply.top_k,
        max_top_k=reply.max_top_k,
        overall=DiffSummary(**values_of(reply.overall)),
        per_class=_by_label(reply.per_class),
        per_sample=_all(SampleDiff, reply.per_sample),
        disclosure_level=disclosure_level_of(reply),
    )


def _by_label(classes: Sequence[pb.ClassDiff]) -> dict[str, DiffSummary]:
    """Names need not be different: classes of the same name have their numbers behind it."""
    names = Counter(each.label for each in classes)
    return {
        each.label if names[each.label] == 1 else f"{each.label} (class {each.class_id})": DiffSummary(
            **values_of(each.summary)
        )
        for each in classes
    }


def _all(kind: Callable[..., Any], messages: Iterable[Any]) -> tuple[Any, ...]:
    """A value for each message, whose lists become tuples."""
    return tuple(
        kind(**{k: v if isinstance(v, str | int | float) else tuple(v) for k, v in values_of(each).items()})
        for each in messages
    )
