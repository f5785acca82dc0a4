"""Sources of training examples and what shows them leave with the permission for each, whatever call they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_fakes import Service
from proponent.errors import PermissionDeniedError
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.call import CallContext
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

CALL = CallContext(caller=ANYBODY)
FLAGS = [(False, False), (True, False), (False, True), (True, True)]


def worker_that_tells_all(request: WorkerRequest) -> WorkerReply:
    """As the worker does: a source from VIEW_METADATA on, what shows it with VIEW_THUMBNAIL, whoever asks."""
    kind = request.WhichOneof("call")
    asked = getattr(request, str(kind))
    view = asked.view if kind == "explain" else asked.query.view
    told = pb.Influence(
        example_id="toy/1",
        source="/data/1.png" if view >= pb.VIEW_METADATA else "",
        thumbnail=b"png" if view >= pb.VIEW_THUMBNAIL else b"",
        text="a secret sentence" if view >= pb.VIEW_THUMBNAIL else "",
        record={"salary": "a secret row"} if view >= pb.VIEW_THUMBNAIL else None,
    )
    if kind == "explain":
        both = pb.MeasureResult(proponents=[told], opponents=[told])
        return WorkerReply(explain=pb.ExplainResponse(results=[both, both]))
    if kind == "score":
        return WorkerReply(score=pb.ScoreExamplesResponse(results=[pb.MeasureScores(scores=[told])]))
    return WorkerReply(flip=pb.FindFlipSetResponse(members=[told]))


def query(view: int) -> pb.ExplainRequest:
    return pb.ExplainRequest(model="toy", encoded_image=b"png", view=view)


CALLS: list[tuple[str, Callable[[int], Any]]] = [
    ("explain", query),
    ("score_examples", lambda view: pb.ScoreExamplesRequest(query=query(view), example_ids=["toy/1"])),
    ("find_flip_set", lambda view: pb.FindFlipSetRequest(query=query(view))),
]


@pytest.fixture(params=FLAGS, ids=lambda flags: f"examples={flags[0]},thumbnails={flags[1]}")
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    found = Service(tmp_path, allow_examples=request.param[0], allow_thumbnails=request.param[1])
    found.worker.handle = worker_that_tells_all
    yield found
    found.close()


@pytest.mark.parametrize(("name", "make"), CALLS, ids=[name for name, _ in CALLS])
@pytest.mark.parametrize("view", pb.View.values(), ids=pb.View.keys())
def test_a_reply_holds_what_is_permitted(service: Service, name: str, make: Callable[[int], Any], view: int) -> None:
    sources, thumbnails = service.settings.allow_examples, service.settings.allow_thumbnails
    permitted = {pb.VIEW_METADATA: sources, pb.VIEW_THUMBNAIL: thumbnails}.get(view, True)
    run = getattr(service.calls, name)
    if not permitted:
        with pytest.raises(PermissionDeniedError) as caught:
            asyncio.run(run(make(view), CALL))
        assert caught.value.reason == ("EXAMPLES_DISABLED" if view == pb.VIEW_METADATA else "THUMBNAILS_DISABLED")
        assert caught.value.field == "view" and not service.worker.asked
        return
    reply = asyncio.run(run(make(view), CALL)).SerializeToString()
    assert b"toy/1" in reply
    assert (b"/data/1.png" in reply) == (sources and view >= pb.VIEW_METADATA)
    assert (b"png" in reply.replace(b"1.png", b"")) == (thumbnails and view == pb.VIEW_THUMBNAIL)
    assert (b"a secret sentence" in reply) == (b"a secret row" in reply) == (thumbnails and view == pb.VIEW_THUMBNAIL)


def test_an_example_is_looked_up_with_permission_and_shown_with_another(service: Service) -> None:
    request = pb.GetExampleRequest(model="toy", example_id="toy/4")
    if not service.settings.allow_examples:
        with pytest.raises(PermissionDeniedError):
            asyncio.run(service.calls.get_example(request, CALL))
        return
    example = asyncio.run(service.calls.get_example(request, CALL)).example
    assert (example.class_id, example.label, example.source) == (1, "b", "file-4")
    shown = service.settings.allow_thumbnails
    assert (example.thumbnail, example.text) == ((b"png", "text-4") if shown else (b"", ""))
    assert dict(example.record) == ({"c": "cell-4"} if shown else {})


@pytest.mark.parametrize("view", pb.View.values(), ids=pb.View.keys())
def test_a_list_shows_examples_with_permission_where_that_is_asked_for(service: Service, view: int) -> None:
    request = pb.ListExamplesRequest(model="toy", view=view)  # type: ignore[arg-type]
    sources, shown = service.settings.allow_examples, service.settings.allow_thumbnails
    if not sources or (view == pb.VIEW_THUMBNAIL and not shown):
        with pytest.raises(PermissionDeniedError):
            asyncio.run(service.calls.list_examples(request, CALL))
        return
    found = asyncio.run(service.calls.list_examples(request, CALL)).examples
    assert (
        {bool(each.text) for each in found}
        == {each.HasField("record") for each in found}
        == {view == pb.VIEW_THUMBNAIL}
    )


def test_what_needs_no_permission_names_ids_alone(service: Service) -> None:
    suspects = asyncio.run(service.calls.list_suspects(pb.ListSuspectsRequest(model="toy", limit=20), CALL))
    described = asyncio.run(service.calls.get_model(pb.GetModelRequest(model="toy"), CALL))
    told = suspects.SerializeToString() + described.SerializeToString() + service.metrics.exposition()[0]
    assert b"toy/4" in told
    assert not [word for word in (b"file-", b"text-", b"cell-") if word in told]
