"""The calls refuse what they must, name the field, keep limits and pass the rest on unchanged."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway_fakes import SHAPE, Service
from proponent.errors import (
    CorruptBundleError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from proponent.gateway.auth import Scope
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.call import CallContext
from proponent.gateway.disclosure import Disclosure
from proponent.gateway.grpc.methods import explain_stream
from proponent.gateway.lane import Lane
from proponent.v1 import explanation_pb2 as pb
from tokens import knowing

CALL = CallContext("id", ANYBODY)


def tensor(values: object = 0.5, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> pb.Tensor:
    return pb.Tensor(shape=shape, dtype=dtype, data=np.full(shape, values, "<f4").tobytes())


def query(**values: object) -> pb.ExplainRequest:
    return pb.ExplainRequest(**{"model": "toy", "encoded_image": b"png", **values})


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(
        tmp_path,
        max_image_bytes=100,
        max_predictions=1,
        max_explanations=1,
        max_influences=60,
        max_thumbnails=6,
        max_waiting=0,
    )
    yield made
    made.close()


@pytest.fixture
def wordy(tmp_path: Path) -> Iterator[Service]:
    """A model of texts, whose calls may take five seconds."""
    made = Service(tmp_path, max_call_cost=5.0, max_thumbnails=6, allow_thumbnails=True)
    deployment = made.model.deployment
    inputs = {"kind": "text", "tensors": [{"name": "ids", "dtype": "float32", "shape": list(SHAPE)}]}
    deployment.bundle = replace(deployment.bundle, manifest=replace(deployment.manifest, inputs=inputs))
    yield made
    made.close()


REFUSED = [
    ({"model": ""}, "model", "MODEL_MISSING"),
    ({"encoded_image": b"x" * 101}, "encoded_image", "IMAGE_TOO_LARGE"),
    ({"top_k": 0}, "top_k", "TOP_K_INVALID"),
    ({"top_k": 11}, "top_k", "REPLY_TOO_LARGE"),
    ({"top_k": 11, "measures": [0]}, "top_k", "REPLY_TOO_LARGE"),
    ({"top_k": 4, "measures": [1], "view": pb.VIEW_THUMBNAIL}, "top_k", "REPLY_TOO_LARGE"),
    ({"measures": [1, 17]}, "measures[1]", "MEASURE_UNKNOWN"),
    ({"view": 8}, "view", "INVALID_INPUT"),
    ({"target": pb.Target(class_id=3)}, "target.class_id", "CLASS_UNKNOWN"),
    ({"target": pb.Target(class_id=-1)}, "target.class_id", "INVALID_INPUT"),
    (
        {"target": pb.Target(contrast=pb.Contrast(for_class_id=9))},
        "target.contrast.for_class_id",
        "CLASS_UNKNOWN",
    ),
    ({"target": pb.Target(contrast=pb.Contrast())}, "target.contrast.against_class_id", "CONTRAST_SAME_CLASS"),
    ({"filter": pb.Filter(allow_class_ids=[-1])}, "filter.allow_class_ids", "CLASS_UNKNOWN"),
    ({"filter": pb.Filter(exclude_example_ids=["a", ""])}, "filter.exclude_example_ids[1]", "INVALID_INPUT"),
    ({"diversity": pb.Diversity(gamma=float("nan"))}, "diversity.gamma", "INVALID_INPUT"),
    ({"diversity": pb.Diversity(max_influence_loss=1.1)}, "diversity.max_influence_loss", "INVALID_INPUT"),
    ({"diversity": pb.Diversity(redundancy=7)}, "diversity.redundancy", "INVALID_INPUT"),
    ({"deadline_policy": 7}, "deadline_policy", "INVALID_INPUT"),
    ({"explain_if": pb.ExplainIf(confidence_below=1.5)}, "explain_if.confidence_below", "INVALID_INPUT"),
    ({"explain_if": pb.ExplainIf(sampled_share=float("nan"))}, "explain_if.sampled_share", "INVALID_INPUT"),
    ({"request_id": "x" * 257}, "request_id", "INVALID_INPUT"),
]


@pytest.mark.parametrize(("values", "field", "reason"), REFUSED)
def test_refuses_a_bad_explanation_request(
    service: Service, values: dict[str, object], field: str, reason: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        asyncio.run(service.calls.explain(query(**values), CALL))
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert not service.worker.asked


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        (tensor(shape=(2, 2)), "tensor.shape", "TENSOR_WRONG_SHAPE"),
        (tensor(dtype="float64"), "tensor.dtype", "TENSOR_WRONG_DTYPE"),
        (tensor(np.nan), "tensor.data", "TENSOR_NOT_FINITE"),
        (tensor(-np.inf), "tensor.data", "TENSOR_NOT_FINITE"),
        (pb.Tensor(shape=SHAPE, dtype="float32", data=b"123"), "tensor.data", "TENSOR_WRONG_SHAPE"),
        (pb.Tensor(shape=[0], dtype="float32"), "tensor.shape[0]", "INVALID_INPUT"),
    ],
)
def test_refuses_a_bad_tensor(service: Service, value: pb.Tensor, field: str, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        asyncio.run(service.calls.predict(pb.PredictRequest(model="toy", tensor=value), CALL))
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_names_the_known_classes_and_models(service: Service) -> None:
    with pytest.raises(InvalidInputError, match="class id 3 is unknown, expected 0 to 2"):
        asyncio.run(service.calls.explain(query(target=pb.Target(class_id=3)), CALL))
    with pytest.raises(NotFoundError, match=r"model 'other' is unknown \(models: toy\)"):
        asyncio.run(service.calls.explain(query(model="other"), CALL))
    with pytest.raises(InvalidInputError, match="MEASURE_L_RELATIF"):
        asyncio.run(service.calls.explain(query(measures=[5]), CALL))


def test_passes_the_request_on_with_the_shorter_deadline(service: Service) -> None:
    request = query(request_id="r", tensor=tensor())
    assert asyncio.run(service.calls.explain(request, CallContext(timeout_s=1.5))).request_id == "r"
    ((sent, timeout_s),) = service.worker.asked
    assert sent.explain == request and 1.0 < timeout_s <= 1.5
    asyncio.run(service.calls.explain(request, CallContext(timeout_s=1e6)))
    assert 29.0 < service.worker.asked[1][1] <= service.settings.request_timeout
    with pytest.raises(DeadlineError):
        asyncio.run(service.calls.explain(request, CallContext(timeout_s=-0.1)))


def test_the_other_calls_check_their_query_and_reach_the_worker(service: Service) -> None:
    good, bad = query(), query(target=pb.Target(class_id=3))
    for run, make in (
        (service.calls.score_examples, lambda q: pb.ScoreExamplesRequest(query=q, example_ids=["toy/1"])),
        (service.calls.estimate_removal, lambda q: pb.EstimateRemovalRequest(query=q, example_ids=["toy/1"])),
        (service.calls.find_flip_set, lambda q: pb.FindFlipSetRequest(query=q)),
    ):
        assert asyncio.run(run(make(good), CALL)).prediction.class_id == 1
        with pytest.raises(InvalidInputError) as caught:
            asyncio.run(run(make(bad), CALL))
        assert caught.value.field == "query.target.class_id"
    assert [request.WhichOneof("call") for request, _ in service.worker.asked] == ["score", "removal", "flip"]


def test_refuses_over_the_limit_and_recovers(service: Service) -> None:
    async def run() -> None:
        service.worker.hold = asyncio.Event()
        first = asyncio.create_task(service.calls.explain(query(), CALL))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await service.calls.explain(query(), CALL)
        service.worker.hold.set()
        await first
        await service.calls.explain(query(), CALL)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("dead", "answered"), [(Lane.EXPLANATIONS, {"predict"}), (Lane.PREDICTIONS, {"explain", "score"})]
)
def test_a_lane_without_workers_takes_no_other_with_it(service: Service, dead: Lane, answered: set[str]) -> None:
    service.model.set_error(UnavailableError("died"), dead)
    assert service.model.error is not None
    runs = {
        "predict": service.calls.predict(pb.PredictRequest(model="toy", encoded_image=b"png"), CALL),
        "explain": service.calls.explain(query(), CALL),
        "score": service.calls.score_examples(_score(), CALL),
    }
    found = set()
    for name, run in runs.items():
        with suppress(UnavailableError):
            asyncio.run(run)
            found.add(name)
    assert found == answered
    service.model.set_error(CorruptBundleError("rows.faiss is damaged"), dead)
    for run in (
        service.calls.predict(pb.PredictRequest(model="toy", encoded_image=b"png"), CALL),
        service.calls.explain(query(), CALL),
    ):
        with pytest.raises(CorruptBundleError):
            asyncio.run(run)


def test_a_model_that_is_not_ready_answers_with_its_error(service: Service) -> None:
    service.model.set_error(CorruptBundleError("rows.faiss is damaged"))
    for run in (service.calls.explain(query(), CALL), service.calls.score_examples(_score(), CALL)):
        with pytest.raises(CorruptBundleError):
            asyncio.run(run)
    assert asyncio.run(service.calls.get_model(pb.GetModelRequest(model="toy"), CALL)).train_size == 5000


def _score() -> pb.ScoreExamplesRequest:
    return pb.ScoreExamplesRequest(query=query(), example_ids=["toy/1"])


def test_discloses_examples_only_when_allowed(service: Service, tmp_path: Path) -> None:
    request = pb.GetExampleRequest(model="toy", example_id="toy/4")
    with pytest.raises(PermissionDeniedError):
        asyncio.run(service.calls.get_example(request, CALL))
    with pytest.raises(PermissionDeniedError):
        asyncio.run(service.calls.explain(query(top_k=1, measures=[1], view=pb.VIEW_THUMBNAIL), CALL))
    (tmp_path / "open").mkdir()
    generous = Service(tmp_path / "open", allow_examples=True, allow_thumbnails=True)
    example = asyncio.run(generous.calls.get_example(request, CALL)).example
    assert (example.class_id, example.label, example.source, example.thumbnail) == (1, "b", "file-4", b"png")
    asyncio.run(generous.calls.explain(query(view=pb.VIEW_THUMBNAIL), CALL))
    with pytest.raises(NotFoundError, match="toy/99"):
        asyncio.run(generous.calls.get_example(pb.GetExampleRequest(model="toy", example_id="toy/99"), CALL))
    generous.close()


def test_ranks_suspects_by_self_influence(service: Service) -> None:
    reply = asyncio.run(service.calls.list_suspects(pb.ListSuspectsRequest(model="toy", limit=4), CALL))
    assert [s.example_id for s in reply.suspects] == ["toy/19", "toy/18", "toy/17", "toy/16"]
    assert [s.label_score for s in reply.suspects] == [0.0, 0.05, 0.1, 0.15]
    # Labels 1, 0, 2, 1 against the prediction 0; only the first two are in the highest tenth.
    assert [s.is_label_issue for s in reply.suspects] == [True, False, False, False]
    assert reply.total == 20


def test_tokens_grant_their_scopes_only(tmp_path: Path) -> None:
    service = Service(tmp_path, knowing(tmp_path / "tokens", {"alpha": "predict", "beta": "predict,explain"}))
    calls = service.calls
    assert calls.permit(CALL, "Bearer alpha", Scope.PREDICT).caller.scopes == {Scope.PREDICT}
    explaining = calls.permit(CALL, "bearer beta", Scope.EXPLAIN)
    asyncio.run(calls.explain(query(), explaining))
    for authorization in ("", "Bearer gamma", "Basic alpha", "alpha"):
        for scope in (Scope.PREDICT, None):
            with pytest.raises(UnauthenticatedError):
                calls.permit(CALL, authorization, scope)
    with pytest.raises(PermissionDeniedError, match="explain"):
        calls.permit(CALL, "Bearer alpha", Scope.EXPLAIN)
    with pytest.raises(PermissionDeniedError, match="examples"):
        asyncio.run(calls.explain(query(view=pb.VIEW_METADATA), explaining))
    service.close()


def test_a_stream_bounds_what_is_in_flight(tmp_path: Path) -> None:
    service = Service(tmp_path)
    served = asyncio.run(_stream(service))
    service.close()
    assert sorted(served) == [(str(n), "error" if n == 5 else "response") for n in range(8)]


async def _stream(service: Service) -> list[tuple[str, str | None]]:
    read = 0

    async def requests():  # type: ignore[no-untyped-def]
        nonlocal read
        for read in range(8):
            top_k = 0 if read == 5 else 1
            yield pb.StreamExplainRequest(request=query(request_id=str(read), top_k=top_k)).SerializeToString()

    service.worker.hold = asyncio.Event()
    stream = explain_stream(service.calls, requests(), CALL, 3)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert len(service.worker.asked) == 3 and read == 2
    service.worker.hold.set()
    answers = [await first, *[answer async for answer in stream]]
    return [(answer.request_id, answer.WhichOneof("outcome")) for answer in answers]


def test_the_same_error_told_again_and_again_keeps_nothing_of_the_calls(service: Service) -> None:
    """One error object answers every call while a model is not ready: its traceback must not grow with them."""
    error = CorruptBundleError("rows.faiss is damaged")
    service.model.set_error(error)
    lengths = []
    for _ in range(3):
        with pytest.raises(CorruptBundleError):
            asyncio.run(service.calls.explain(query(), CALL))
        lengths.append(len(traceback.extract_tb(error.__traceback__)))
    assert lengths[0] == lengths[2]


def test_no_worker_is_asked_what_would_cost_too_much(tmp_path: Path) -> None:
    """Whatever the kind of call; the cheap one beside it is answered."""
    service = Service(tmp_path, max_call_cost=2e-3)
    diverse = query(diversity=pb.Diversity(redundancy=pb.REDUNDANCY_FACILITY_LOCATION), measures=[1])
    try:
        for call, field in (
            (service.calls.explain(diverse, CALL), "diversity.candidates"),
            (
                service.calls.score_examples(pb.ScoreExamplesRequest(query=query(), example_ids=["x"] * 1000), CALL),
                "example_ids",
            ),
            (
                service.calls.estimate_removal(
                    pb.EstimateRemovalRequest(query=query(), example_ids=["x"] * 1000), CALL
                ),
                "example_ids",
            ),
        ):
            with pytest.raises(InvalidInputError) as caught:
                asyncio.run(call)
            assert (caught.value.field, caught.value.reason) == (field, "COST_TOO_LARGE")
        assert not service.worker.asked
        asyncio.run(service.calls.explain(query(measures=[1]), CALL))
        assert len(service.worker.asked) == 1
    finally:
        service.close()


def highlight(text: str = "a film", count: int = 2, **values: object) -> pb.HighlightExamplesRequest:
    asked = pb.ExplainRequest(**{"model": "toy", "text": text, **values})
    return pb.HighlightExamplesRequest(query=asked, example_ids=[f"toy/{number}" for number in range(count)])


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (highlight(count=0), "example_ids", "INVALID_INPUT"),
        (highlight(count=101), "example_ids", "INVALID_INPUT"),
        (highlight(count=7, view=pb.VIEW_THUMBNAIL), "example_ids", "INVALID_INPUT"),
        (highlight(count=100), "example_ids", "COST_TOO_LARGE"),
        (highlight(" "), "query.text", "TEXT_EMPTY"),
        (highlight(target=pb.Target(class_id=3)), "query.target.class_id", "CLASS_UNKNOWN"),
        (highlight(tensors=pb.NamedTensors(tensors={"ids": tensor()})), "query.tensors", "INPUT_WRONG_KIND"),
    ],
)
def test_words_are_weighed_within_bounds(
    wordy: Service, request_: pb.HighlightExamplesRequest, field: str, reason: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        asyncio.run(wordy.calls.highlight_examples(request_, CALL))
    assert (refused.value.field, refused.value.reason) == (field, reason)
    assert not wordy.worker.asked


def test_words_need_the_permission_that_shows_texts(wordy: Service) -> None:
    asyncio.run(wordy.calls.highlight_examples(highlight(), CALL))
    wordy.calls.disclosure = Disclosure(sources=True, thumbnails=False)
    with pytest.raises(PermissionDeniedError) as refused:
        asyncio.run(wordy.calls.highlight_examples(highlight(view=pb.VIEW_THUMBNAIL), CALL))
    assert refused.value.reason == "THUMBNAILS_DISABLED" and len(wordy.worker.asked) == 1
