"""The typed clients, against the real gRPC transport over a fake worker: values, errors, retries, deadlines."""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway_fakes import Service, echo
from proponent import (
    AsyncClient,
    Client,
    DeadlineError,
    Diversity,
    Estimator,
    ExampleQuery,
    ExplainOptions,
    Filter,
    InvalidInputError,
    Measure,
    NotFoundError,
    OrderBy,
    OverloadedError,
    PermissionDeniedError,
    Retry,
    Side,
    SpecError,
    Target,
    Tls,
    UnavailableError,
    View,
)
from proponent.client.connection import Connection
from proponent.client.failures import Failure
from proponent.client.listings import diff_bundles
from proponent.errors import ProponentError, SamplesMissingError, UnauthenticatedError
from proponent.gateway.grpc.server import GrpcServer
from proponent.gateway.served_model import Readiness
from proponent.listings import Bundles
from proponent.options import Redundancy
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from tokens import knowing

PNG = b"png"
NO_WAIT = Retry(initial_s=0.0)


class Running:
    """A gRPC server over fakes in an event loop of its own thread, so that blocking clients can call it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._run(self._start(directory, settings))

    async def _start(self, directory: Path, settings: dict[str, Any]) -> None:
        self.service = Service(directory, grpc_address="127.0.0.1:0", **settings)
        self._server = GrpcServer(
            self.service.calls, Readiness(self.service.models), self.service.metrics, self.service.settings, None
        )
        await self._server.start()
        self.address = f"127.0.0.1:{self._server.port}"

    def _run(self, work: Any) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(30)

    def close(self) -> None:
        self._run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.service.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    server = Running(tmp_path, allow_examples=True)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.address, model="toy", retry=NO_WAIT, timeout_s=10) as opened:
        yield opened


def failing(times: int, error: ProponentError, tried: list[int]) -> Callable[[WorkerRequest], WorkerReply]:
    def answer(request: WorkerRequest) -> WorkerReply:
        tried.append(1)
        if len(tried) <= times:
            raise error
        return echo(request)

    return answer


def test_a_prediction_is_a_plain_value(client: Client) -> None:
    prediction = client.predict(PNG)
    assert (prediction.class_id, prediction.label, prediction.probabilities) == (1, "b", (0.25, 0.5, 0.25))


def test_options_reach_the_server(client: Client, running: Running) -> None:
    options = ExplainOptions(
        measures=(Measure.L_RELATIF,),
        top_k=7,
        target=Target(2, against=0),
        filter=Filter(allow=frozenset({1}), exclude=("toy/3",)),
        diversity=Diversity(Redundancy.MMD, max_influence_loss=0.25, candidates=50),
        view=View.METADATA,
    )
    client.explain(PNG, options)
    [(request, _)] = running.service.worker.asked
    asked = request.explain
    assert (list(asked.measures), asked.top_k, asked.view) == ([pb.MEASURE_L_RELATIF], 7, pb.VIEW_METADATA)
    assert (asked.target.contrast.for_class_id, asked.target.contrast.against_class_id) == (2, 0)
    assert (list(asked.filter.allow_class_ids), list(asked.filter.exclude_example_ids)) == ([1], ["toy/3"])
    assert (asked.diversity.max_influence_loss, asked.diversity.candidates) == (0.25, 50)
    assert asked.diversity.redundancy == pb.REDUNDANCY_MMD and asked.diversity.WhichOneof("strength") != "gamma"


def test_replies_become_values_and_tables(client: Client, running: Running) -> None:
    def answer(request: WorkerRequest) -> WorkerReply:
        one = pb.Influence(example_id="toy/1", score=2.5, rank=1, label="a")
        result = pb.MeasureResult(
            measure=pb.MEASURE_INFLUENCE,
            proponents=[one],
            proponents_diversity=pb.DiversityOutcome(influence_kept=0.75),
        )
        notice = pb.Notice(code=pb.Notice.CODE_K_CAPPED, message="capped", count=3)
        return WorkerReply(explain=pb.ExplainResponse(results=[result], train_size=20, notices=[notice]))

    running.service.worker.handle = answer
    found = client.explain(PNG)
    [result] = found.results
    assert [(i.example_id, i.score) for i in result.proponents] == [("toy/1", 2.5)] and result.opponents == ()
    assert result.proponents_diversity is not None and result.proponents_diversity.influence_kept == 0.75
    assert result.opponents_diversity is None
    assert (found.train_size, found.notices[0].message, found.notices[0].count) == (20, "capped", 3)
    table = found.to_pandas()
    assert table[["measure", "side", "example_id", "score"]].values.tolist() == [
        ["influence", "proponents", "toy/1", 2.5]
    ]


def test_every_other_call(client: Client, running: Running) -> None:
    assert client.score_examples(PNG, ["toy/1"]).prediction.label == "b"
    client.estimate_removal(PNG, ["toy/1"], estimator=Estimator.INFLUENCE_SUM)
    assert running.service.worker.asked[-1][0].removal.estimator == pb.ESTIMATOR_INFLUENCE_SUM
    assert client.find_flip_set(PNG, max_size=5).prediction.label == "b"
    assert client.get_example("toy/4").source == "file-4"
    model = client.get_model()
    assert (model.model, model.class_names, model.audit["spearman"]) == ("toy", ("a", "b", "c"), 0.99)
    first = client.list_suspects(limit=3)
    second = client.list_suspects(limit=3, page_token=first.next_page_token)
    assert first.total == 20 and len({s.example_id for s in (*first.suspects, *second.suspects)}) == 6
    assert len(first.to_pandas()) == 3


def test_lists_of_examples_are_plain_values(client: Client) -> None:
    query = ExampleQuery(class_ids=(1, 2), order_by=OrderBy.CLASS, min_self_influence=4.0)
    first = client.list_examples(query, page_size=3)
    second = client.list_examples(query, page_size=3, page_token=first.next_page_token)
    assert [e.example_id for e in first.examples] == ["toy/19", "toy/16", "toy/13"]
    assert [e.self_influence for e in second.examples] == [10.0, 7.0, 4.0]
    assert first.total == 11 and not first.examples[0].source
    assert client.list_examples(page_size=1, view=View.METADATA).examples[0].source == "file-19"
    assert list(first.to_pandas()["class_id"]) == [1, 1, 1]
    summary = client.summarize_examples(bins=4)
    assert [c.count for c in summary.classes] == [7, 7, 6] and summary.total == 20
    assert len(summary.edges) == 5 and sum(summary.counts) + summary.zeros == 20
    assert list(summary.to_pandas()["label"]) == ["a", "b", "c"]
    assert client.list_bundles() == Bundles(())
    with pytest.raises(SamplesMissingError):
        client.list_frequent_examples(Measure.L_RELATIF, Side.OPPONENTS, top_k=3)
    with pytest.raises(NotFoundError, match="no bundle"):
        client.diff_bundles(measure=Measure.L_RELATIF)
    for forbidden in (client.list_samples, lambda: client.get_sample("x")):
        with pytest.raises(PermissionDeniedError) as caught:
            forbidden()
        assert caught.value.reason == "SAMPLES_DISABLED"


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, Any]:
        found = {name: each for name, each in vars(kind).items() if name[0] != "_" and callable(each)}
        return {name: inspect.signature(each).parameters for name, each in found.items()}

    assert methods(Client) == methods(AsyncClient)
    docs = {name: getattr(Client, name).__doc__ for name in methods(Client)}
    assert docs == {name: getattr(AsyncClient, name).__doc__ for name in docs}


def test_many_inputs_over_one_call(client: Client) -> None:
    found = dict(client.explain_many([PNG, b"x" * (11 << 20), PNG]))
    assert sorted(found) == [0, 1, 2]
    assert isinstance(found[1], InvalidInputError) and found[1].reason == "IMAGE_TOO_LARGE"
    assert not isinstance(found[0], ProponentError) and found[0].prediction.label == "b"


def test_answers_of_a_stream_come_with_the_rows_asked_about(running: Running, client: Client) -> None:
    deployment = running.service.model.deployment
    inputs = {"kind": "record", "tensors": [{"name": "", "dtype": "float32", "shape": [2]}]}
    deployment.bundle = replace(deployment.bundle, manifest=replace(deployment.manifest, inputs=inputs))
    rows: list[dict[str, Any]] = [{"age": number, "job": None} for number in range(3)]

    async def asked() -> dict[int, Any]:
        async with AsyncClient(running.address, model="toy", timeout_s=20) as other:
            return {position: found async for position, found in other.explain_many(rows)}

    for found in (dict(client.explain_many(rows)), asyncio.run(asked())):
        assert [found[position].record for position in range(3)] == rows


def unusable_in_the_middle() -> Iterator[Any]:
    yield from (PNG, Path("nowhere.png"), PNG, None, PNG)


def breaking() -> Iterator[Any]:
    yield from (PNG, PNG)
    raise KeyError("of the caller's own")


def test_an_input_that_cannot_be_sent_fails_alone(client: Client) -> None:
    found = dict(client.explain_many(unusable_in_the_middle()))
    assert {n for n, one in found.items() if isinstance(one, ProponentError)} == {1, 3} and len(found) == 5
    assert isinstance(found[1], NotFoundError) and isinstance(found[3], InvalidInputError)
    assert dict(client.explain_many([None])).keys() == {0}


def test_what_the_inputs_themselves_raise_follows_the_answers(client: Client) -> None:
    found = []
    with pytest.raises(KeyError, match="of the caller's own"):
        for position, _ in client.explain_many(breaking()):
            found.append(position)
    assert sorted(found) == [0, 1]


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda client: client.predict(PNG, model="other"), NotFoundError, "MODEL_UNKNOWN"),
        (lambda client: client.explain(PNG, ExplainOptions(target=Target(9))), InvalidInputError, "CLASS_UNKNOWN"),
        (
            lambda client: client.explain(PNG, ExplainOptions(target=Target(against=1))),
            InvalidInputError,
            "INVALID_INPUT",
        ),
        (
            lambda client: client.explain(PNG, ExplainOptions(view=View.THUMBNAIL)),
            PermissionDeniedError,
            "THUMBNAILS_DISABLED",
        ),
    ],
)
def test_errors_are_those_of_the_server(client: Client, call: Any, kind: type[ProponentError], reason: str) -> None:
    with pytest.raises(kind) as caught:
        call(client)
    assert caught.value.reason == reason and caught.value.field


@pytest.mark.parametrize("error", [UnavailableError("starting", reason="WORKER_STARTING"), OverloadedError("full")])
def test_what_may_succeed_later_is_tried_again(running: Running, error: ProponentError) -> None:
    tried: list[int] = []
    running.service.worker.handle = failing(1, error, tried)
    with Client(running.address, model="toy", retry=NO_WAIT, timeout_s=20) as client:
        assert client.predict(PNG).label == "b"
    assert len(tried) == 2


def test_what_cannot_succeed_is_tried_once(client: Client, running: Running) -> None:
    tried: list[int] = []
    running.service.worker.handle = failing(9, InvalidInputError("no image", reason="IMAGE_UNREADABLE"), tried)
    with pytest.raises(InvalidInputError, match="no image"):
        client.predict(PNG)
    assert len(tried) == 1


def test_tries_end_with_the_last_error(running: Running) -> None:
    tried: list[int] = []
    running.service.worker.handle = failing(9, OverloadedError("full"), tried)
    once = Client(running.address, model="toy", retry=Retry(attempts=1), timeout_s=10)
    with once, pytest.raises(OverloadedError, match="full"):
        once.predict(PNG)
    # The server advises a second, which the whole call does not have.
    with Client(running.address, model="toy", timeout_s=0.5) as short, pytest.raises(OverloadedError):
        short.predict(PNG)
    assert len(tried) == 2


def test_a_server_that_is_not_there_is_unavailable() -> None:
    retry = Retry(attempts=2, initial_s=0.01)
    with Client("127.0.0.1:1", model="toy", retry=retry, timeout_s=5) as client, pytest.raises(UnavailableError):
        client.predict(PNG)


def test_a_deadline_ends_the_wait(running: Running) -> None:
    held = asyncio.Event()
    running.service.worker.hold = held
    started = time.monotonic()
    with Client(running.address, model="toy", timeout_s=0.3) as client, pytest.raises(DeadlineError):
        client.predict(PNG)
    assert time.monotonic() - started < 10


def test_waits_grow_and_follow_the_servers_advice() -> None:
    retry = Retry(attempts=4, initial_s=1.0, multiplier=2.0, max_s=3.0)
    failure = Failure(UnavailableError("later"), retry_delay_s=5.0)
    for tried, longest in ((1, 1.0), (2, 2.0), (3, 3.0)):
        waits = [retry.wait_s(failure, tried) for _ in range(200)]
        assert all(wait is not None and 5.0 <= wait <= 5.0 + longest for wait in waits)
    assert retry.wait_s(failure, 4) is None
    assert retry.wait_s(Failure(InvalidInputError("never")), 1) is None


def test_a_token_is_sent_and_never_shown(tmp_path: Path) -> None:
    server = Running(tmp_path, authenticator=knowing(tmp_path / "tokens", {"secret-word": "predict"}))
    try:
        with Client(server.address, model="toy", token="secret-word") as client:
            assert client.predict(PNG).label == "b"
        with Client(server.address, model="toy") as client, pytest.raises(UnauthenticatedError):
            client.predict(PNG)
    finally:
        server.close()
    assert "secret-word" not in repr(Connection("a:1", token="secret-word"))


def test_tls_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="both a certificate and a key"):
        Tls(certificate=tmp_path / "c.pem")
    with pytest.raises(SpecError, match="'authorities' cannot be read"):
        Client("a:1", tls=Tls(authorities=tmp_path / "none.pem"))


@pytest.mark.parametrize("token", ["one\nline", "caf\u00e9"])
def test_a_token_that_cannot_be_sent_is_refused_unseen(token: str) -> None:
    with pytest.raises(SpecError, match="ASCII") as caught:
        Client("a:1", token=token)
    assert caught.value.field == "token" and token not in str(caught.value)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_images_come_in_many_forms(client: Client, running: Running, tmp_path: Path) -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    picture = Image.fromarray(pixels)
    path = tmp_path / "digit.png"
    path.write_bytes(encoded(picture))
    for value in (encoded(picture), path, str(path), picture, pixels):
        client.predict(value)
        sent = running.service.worker.asked[-1][0].predict.encoded_image
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent))), pixels)
    client.predict(np.full((1, 2, 2), 0.5))
    tensor = running.service.worker.asked[-1][0].predict.tensor
    assert (list(tensor.shape), tensor.dtype, len(tensor.data)) == ([1, 2, 2], "float32", 16)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (Path("nowhere.png"), NotFoundError, "nowhere.png"),
        (3, InvalidInputError, "type int"),
        (np.zeros((2, 2), dtype=np.int64), InvalidInputError, "int64"),
        (np.zeros((2, 2, 4), dtype=np.uint8), InvalidInputError, r"\[2, 2, 4\]"),
        (Image.new("CMYK", (3, 2)), InvalidInputError, "3x2 pixels, mode 'CMYK'"),
        (np.zeros((0, 2), dtype=np.uint8), InvalidInputError, "2x0 pixels"),
        (np.full((1, 2, 2), 1e300), InvalidInputError, "4 values that are NaN or infinite"),
    ],
)
def test_other_inputs_are_refused(client: Client, value: Any, kind: type[ProponentError], words: str) -> None:
    with pytest.raises(kind, match=words):
        client.predict(value)


def test_no_class_of_a_comparison_is_lost_for_its_name() -> None:
    classes = [
        pb.ClassDiff(class_id=n, label=label, summary=pb.DiffSummary(samples=n))
        for n, label in enumerate(("crane", "cat", "crane"))
    ]
    reply = pb.DiffBundlesResponse(measure=pb.MEASURE_INFLUENCE, per_class=classes)
    found = diff_bundles("m", "", "", Measure.INFLUENCE, None).read(reply).per_class
    assert {name: each.samples for name, each in found.items()} == {
        "crane (class 0)": 0,
        "cat": 1,
        "crane (class 2)": 2,
    }


def test_the_client_for_asyncio_does_the_same(running: Running) -> None:
    tried: list[int] = []
    running.service.worker.handle = failing(1, UnavailableError("starting"), tried)

    async def asked() -> None:
        async with AsyncClient(running.address, model="toy", retry=NO_WAIT, timeout_s=20) as client:
            assert (await client.predict(PNG)).label == "b"
            calls: list[Awaitable[Any]] = [client.explain(PNG), client.get_model(), client.get_example("toy/1")]
            explanation, model, example = await asyncio.gather(*calls)
            assert (explanation.prediction.label, model.model, example.example_id) == ("b", "toy", "toy/1")
            found = {position async for position, _ in client.explain_many([PNG, PNG])}
            assert found == {0, 1}
            mixed = {n: type(one) async for n, one in client.explain_many(unusable_in_the_middle())}
            assert mixed[1] is NotFoundError and mixed[3] is InvalidInputError and len(mixed) == 5
            with pytest.raises(KeyError):
                _ = [one async for one in client.explain_many(breaking())]
            with pytest.raises(NotFoundError):
                await client.predict(PNG, model="other")

    asyncio.run(asked())
    assert len(tried) >= 2


def test_a_stream_that_is_refused_has_its_reason_for_asyncio_too(tmp_path: Path) -> None:
    """Whatever is written to it meanwhile."""
    running = Running(tmp_path, max_streams=1)

    async def refused(client: AsyncClient) -> None:
        with pytest.raises(OverloadedError, match="1 streams are open"):
            _ = [one async for one in client.explain_many([PNG] * 20)]

    async def asked() -> None:
        async with AsyncClient(running.address, model="toy", timeout_s=20) as client:
            first = client.explain_many(PNG for _ in range(1_000_000))
            assert await anext(first)
            for _ in range(8):
                await asyncio.gather(*(refused(client) for _ in range(8)))
            assert await anext(first)
            await first.aclose()

    try:
        asyncio.run(asked(), debug=True)
    finally:
        running.close()
