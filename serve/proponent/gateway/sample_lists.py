"""The held-out inputs that the served bundle keeps, and the training examples that crowd their lists."""

from __future__ import annotations

import json

from proponent.errors import InvalidInputError, NotFoundError, SamplesMissingError
from proponent.gateway.deployment import BundleHandle
from proponent.gateway.disclosure import Disclosure
from proponent.index.bundle import Manifest
from proponent.index.catalog import LONGEST_TEXT
from proponent.index.paging import bad_token, page_token, token_parts
from proponent.index.sample_lists import StoredLists
from proponent.index.samples import Sample, Samples
from proponent.options import DEFAULT_TOP_K, Measure, Side
from proponent.request_options import MEASURES
from proponent.v1 import explanation_pb2 as pb

_SIDES = {
    pb.SIDE_UNSPECIFIED: tuple(Side),
    pb.SIDE_PROPONENTS: (Side.PROPONENTS,),
    pb.SIDE_OPPONENTS: (Side.OPPONENTS,),
}


def list_samples(bundle: BundleHandle, request: pb.ListSamplesRequest, size: int) -> pb.ListSamplesResponse:
    """A page of ``size`` samples; raises InvalidInputError for a bad token."""
    samples, digest = samples_of(bundle), bundle.manifest.digest
    thumbnails = request.view == pb.VIEW_THUMBNAIL
    found = samples.page(size + 1, _position(request.page_token, digest), thumbnails=thumbnails)
    more = len(found) > size
    return pb.ListSamplesResponse(
        samples=[_preview(sample, bundle.manifest) for sample in found[:size]],
        bundle_digest=digest,
        total=len(samples),
        next_page_token=page_token(digest, found[size - 1].position) if more else "",
    )


def get_sample(bundle: BundleHandle, request: pb.GetSampleRequest) -> pb.GetSampleResponse:
    """One sample with its input; raises NotFoundError."""
    sample = samples_of(bundle).get(request.sample_id)
    if sample is None:
        raise NotFoundError(
            f"sample {request.sample_id!r} is unknown to model {bundle.manifest.model!r}",
            field="sample_id",
            reason="SAMPLE_UNKNOWN",
        )
    message = _message(sample, bundle.manifest)
    _add_input(message, sample)
    return pb.GetSampleResponse(sample=message, bundle_digest=bundle.manifest.digest)


def _add_input(message: pb.Sample, sample: Sample) -> None:
    if sample.form == "tensor":
        message.tensor.CopyFrom(pb.Tensor(shape=sample.shape, dtype=sample.dtype, data=sample.input))
    elif sample.form == "text":
        message.text = sample.input.decode()
    elif sample.form == "record":
        message.record.update(json.loads(sample.input))
    elif sample.form == "tensors":
        message.tensors.ParseFromString(sample.input)
    else:
        message.encoded_image = sample.input


def list_frequent_examples(
    bundle: BundleHandle, request: pb.ListFrequentExamplesRequest, size: int, disclosure: Disclosure
) -> pb.ListFrequentExamplesResponse:
    """The ``size`` examples that stand in most lists."""
    forgotten = bundle.tombstones.ids()
    stored = StoredLists.read(samples_of(bundle), asked_measure(request.measure), forgotten)
    top_k = asked_length(request, stored.lists.depth)
    found = stored.frequencies(_SIDES[request.side], top_k)
    first = found.first(size)
    rows = bundle.catalog.rows_of([example_id for example_id, _ in first])
    entries = bundle.catalog.by_rows(list(rows.values()), contents=request.view == pb.VIEW_THUMBNAIL)
    issues = bundle.examples.issue_place(forgotten)
    return pb.ListFrequentExamplesResponse(
        examples=[
            pb.FrequentExample(
                example=disclosure.example(entries[rows[example_id]], bundle.manifest, request.view, issues),
                count=count,
            )
            for example_id, count in first
        ],
        lists=found.lists,
        slots=found.slots,
        distinct=len(found.counts),
        top_k=top_k,
        max_top_k=stored.lists.depth,
        samples=len(stored.samples),
        bundle_digest=bundle.manifest.digest,
    )


def samples_of(bundle: BundleHandle) -> Samples:
    """The samples of a bundle; raises SamplesMissingError."""
    if bundle.samples is None:
        raise SamplesMissingError(
            f"bundle {bundle.manifest.digest[:12]} keeps no samples: rebuild it with a held-out data set (held_out)"
        )
    return bundle.samples


def asked_measure(number: int) -> Measure:
    """The measure that a request names, by default influence."""
    return MEASURES.get(number, Measure.INFLUENCE)


def asked_length(request: pb.ListFrequentExamplesRequest | pb.DiffBundlesRequest, most: int) -> int:
    """The length of lists that a request asks for; raises InvalidInputError where they do not go so far."""
    if not request.HasField("top_k"):
        return min(DEFAULT_TOP_K, most)
    if request.top_k > most:
        raise InvalidInputError(
            f"top_k is {request.top_k}, expected at most {most}: so long are the lists that the bundle keeps",
            field="top_k",
            reason="TOP_K_INVALID",
        )
    return request.top_k


def _preview(sample: Sample, manifest: Manifest) -> pb.Sample:
    """What a list shows of a sample: a text, of which the beginning, or a record stands in the place of a picture."""
    message = _message(sample, manifest)
    if sample.input:
        _add_input(message, sample)
    if message.text:
        message.text = message.text[:LONGEST_TEXT]
    return message


def _message(sample: Sample, manifest: Manifest) -> pb.Sample:
    return pb.Sample(
        sample_id=sample.sample_id,
        class_id=sample.class_id,
        label=manifest.class_names[sample.class_id],
        predicted_class_id=sample.predicted_class_id,
        thumbnail=sample.thumbnail,
    )


def _position(token: str, digest: str) -> int:
    """The position that a page comes behind."""
    if not token:
        return -1
    [position] = token_parts(token, digest, 1)
    if not position.isascii() or not position.isdigit() or len(position) > 9:
        raise bad_token()
    return int(position)
