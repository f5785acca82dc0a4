"""What is answered from a bundle's manifest and catalog alone; the catalog is read in a thread: it may take long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from google.protobuf.struct_pb2 import Struct

from proponent.errors import InvalidInputError, NotFoundError
from proponent.gateway.deployment import BundleHandle, Deployment
from proponent.gateway.disclosure import Disclosure
from proponent.gateway.signatures import signature_message
from proponent.index.audit_file import known_audit
from proponent.index.catalog import Suspect
from proponent.v1 import explanation_pb2 as pb

DEFAULT_SUSPECTS = 100
P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(deployment: Deployment, look: Callable[[BundleHandle], T]) -> T:
    """What a function finds in a bundle, which stays open meanwhile."""
    with deployment.in_use():
        return await asyncio.to_thread(look, deployment.bundle)


async def off_loop(look: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
    """What a function that reads files finds."""
    return await asyncio.to_thread(look, *values, **named)


def find_example(bundle: BundleHandle, example_id: str, disclosure: Disclosure) -> pb.GetExampleResponse:
    """One training example; raises NotFoundError, for a forgotten one too."""
    entry = bundle.catalog.get(example_id)
    if entry is None or bundle.tombstones.contains(example_id):
        raise NotFoundError(
            f"training example {example_id!r} is unknown to model {bundle.manifest.model!r}",
            field="example_id",
            reason="EXAMPLE_UNKNOWN",
        )
    issues = bundle.examples.issue_place(bundle.tombstones.ids())
    return pb.GetExampleResponse(
        example=disclosure.example(entry, bundle.manifest, pb.VIEW_THUMBNAIL, issues),
        bundle_digest=bundle.manifest.digest,
    )


def list_suspects(bundle: BundleHandle, request: pb.ListSuspectsRequest) -> pb.ListSuspectsResponse:
    """A page of suspects; raises InvalidInputError for a bad place to begin at."""
    digest = bundle.manifest.digest
    if request.page_token and request.offset:
        raise InvalidInputError("both a page_token and an offset, expected one of them", field="offset")
    page = bundle.catalog.label_suspects(
        request.limit or DEFAULT_SUSPECTS,
        after=bundle.catalog.place_of(request.page_token, digest) if request.page_token else None,
        offset=request.offset,
        forgotten=bundle.tombstones.ids(),
    )
    return pb.ListSuspectsResponse(
        suspects=map(_suspect, page.suspects),
        bundle_digest=digest,
        total=page.total,
        next_page_token=page.next.token(digest) if page.next else "",
    )


def describe_model(bundle: BundleHandle) -> pb.GetModelResponse:
    """What a manifest says of a model, and what audits have measured of its bundle."""
    manifest = bundle.manifest
    return pb.GetModelResponse(
        model=manifest.model,
        bundle_digest=manifest.digest,
        weights_sha256=manifest.weights_sha256,
        curvature=manifest.curvature,
        damping=manifest.damping,
        damping_relative=manifest.damping_relative,
        embedding_size=manifest.embedding_size,
        train_size=manifest.train_size,
        class_names=manifest.class_names,
        input_shape=manifest.input_shape,
        kept_energy=manifest.kept_energy,
        audit=struct(known_audit(bundle.path, manifest)),
        loss=manifest.loss,
        created=manifest.created,
        uncovered_share=manifest.uncovered_share,
        uncovered=sorted(manifest.uncovered),
        image_size=manifest.image_size,
        image_mode=manifest.image_mode,
        frozen_share=manifest.frozen_share,
        frozen=sorted(manifest.frozen),
        samples=manifest.samples,
        train_accuracy=manifest.train_accuracy,
        teachers=manifest.teachers,
        input_signature=signature_message(manifest.signature),
    )


def struct(values: Mapping[str, Any]) -> Struct:
    """A JSON-like mapping as a Struct."""
    message = Struct()
    message.update(values)
    return message


def _suspect(suspect: Suspect) -> pb.Suspect:
    return pb.Suspect(
        example_id=suspect.example_id,
        is_label_issue=suspect.is_label_issue,
        label_score=suspect.label_score,
        given_class_id=suspect.given_class_id,
        predicted_class_id=suspect.predicted_class_id,
        self_influence=suspect.self_influence,
    )
