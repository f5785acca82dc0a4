"""Every item of a batch gets its own answer, whatever its mates are; every bad input says what is wrong with it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.rpc import code_pb2
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny
from proponent.bounds.frames import BATCH, joined, unpack
from proponent.bounds.liveness import TicketIssuer
from proponent.errors import InvalidInputError, ProponentError
from proponent.explainer import Explainer
from proponent.index.bundle import CATALOG, FACTORS, ROWS, SCALES
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker
from proponent.worker.wire import encode_reply, read_row

HANDLER = Path(__file__).parent.parent / "handlers" / "influence_handler.py"
OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worker")
    return rebuild(load_spec(tiny.project(root)), Store(root / "store"), RebuildOptions(quiet=True))


@pytest.fixture(scope="module")
def worker(bundle: Path) -> Worker:
    return Worker.load(bundle, None, None)


@pytest.fixture(scope="module")
def predicting(bundle: Path) -> Worker:
    """A worker of predictions alone, of a bundle that has lost all else."""
    copied = Path(shutil.copytree(bundle, bundle.parent.parent / "bare" / bundle.name))
    for name in (ROWS, SCALES, FACTORS, CATALOG):
        (copied / name).unlink()
    return Worker.load(copied, None, None, predicts_only=True)


def png(number: int = 0, mode: str = "L", size: tuple[int, int] = (6, 6)) -> bytes:
    image = Image.fromarray(tiny.pictures(9, seed=5)[0][number].numpy()).resize(size).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def tensor(number: int = 0, **changes: Any) -> pb.Tensor:
    values = tiny.pictures(9, seed=5)[0][number].float().numpy() / 255
    fields = {"shape": [1, 6, 6], "dtype": "float32", "data": values.astype("<f4").tobytes()}
    return pb.Tensor(**{**fields, **changes})


def predict(**fields: Any) -> Item:
    return Item(WorkerRequest(predict=pb.PredictRequest(**fields)), as_json=False)


def explain(**fields: Any) -> Item:
    return Item(WorkerRequest(explain=pb.ExplainRequest(**fields)), as_json=False)


def stable(reply: WorkerReply) -> WorkerReply:
    """A reply without what differs each time, scores to five digits (a batch's sums are rounded differently)."""
    found = WorkerReply.FromString(reply.SerializeToString())
    for name in ("stages", "batch_size"):
        found.ClearField(name)
    if found.HasField("explain"):
        found.explain.ClearField("explanation_id")
        found.explain.ClearField("timings")
        for result in found.explain.results:
            for influence in [*result.proponents, *result.opponents]:
                influence.score = float(f"{influence.score:.4g}")
    for part in (found.predict, found.explain):
        for place, value in enumerate(part.prediction.probabilities):
            part.prediction.probabilities[place] = float(f"{value:.4g}")
    return found


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no input": ({}, "INVALID_INPUT", "input"),
    "no image": ({"encoded_image": b"hello"}, "IMAGE_UNREADABLE", "encoded_image"),
    "truncated": ({"encoded_image": png()[:60]}, "IMAGE_UNREADABLE", "encoded_image"),
    "colour": ({"encoded_image": png(mode="RGB")}, "IMAGE_WRONG_CHANNELS", "encoded_image"),
    "size": ({"encoded_image": png(size=(7, 6))}, "IMAGE_WRONG_SIZE", "encoded_image"),
    "dtype": ({"tensor": tensor(dtype="float64")}, "TENSOR_WRONG_DTYPE", "tensor.dtype"),
    "shape": ({"tensor": tensor(shape=[36])}, "TENSOR_WRONG_SHAPE", "tensor.shape"),
    "length": ({"tensor": tensor(data=b"abc")}, "TENSOR_WRONG_SHAPE", "tensor.data"),
    "nan": (
        {"tensor": tensor(data=np.full(36, np.nan, "<f4").tobytes())},
        "TENSOR_NOT_FINITE",
        "tensor.data",
    ),
    "overflow": ({"tensor": tensor(data=np.full(36, 3e38, "<f4").tobytes())}, "INVALID_INPUT", "input"),
}
BAD_OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "top_k": ({"encoded_image": png(), "top_k": 0}, "TOP_K_OUT_OF_RANGE", "top_k"),
    "measure": ({"encoded_image": png(), "measures": [77]}, "MEASURE_UNKNOWN", "measures"),
    "share": (
        {"encoded_image": png(), "explain_if": pb.ExplainIf(sampled_share=1.5)},
        "INVALID_INPUT",
        "explain_if.sampled_share",
    ),
    "class": ({"encoded_image": png(), "target": pb.Target(class_id=3)}, "CLASS_UNKNOWN", "target.class_id"),
    "contrast": (
        {"encoded_image": png(), "target": pb.Target(contrast=pb.Contrast(for_class_id=1, against_class_id=1))},
        "CONTRAST_SAME_CLASS",
        "target.contrast",
    ),
}


def check_error(reply: WorkerReply, reason: str, field: str) -> None:
    assert reply.WhichOneof("outcome") == "error"
    assert (reply.error.reason, reply.error.field) == (reason, field)
    assert reply.error.code == code_pb2.INVALID_ARGUMENT and reply.error.message


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_alone_says_what_is_wrong(worker: Worker, name: str) -> None:
    fields, reason, field = BAD[name]
    for make in (predict, explain):
        [reply] = worker.handle([make(**fields)])
        check_error(reply, reason, field)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_alone_says_what_is_wrong(worker: Worker, name: str) -> None:
    fields, reason, field = BAD_OPTIONS[name]
    [reply] = worker.handle([explain(**fields)])
    check_error(reply, reason, field)


def test_a_worker_that_only_predicts_answers_as_one_that_explains(worker: Worker, predicting: Worker) -> None:
    """It needs nothing of the bundle but weights and spec."""
    items = [predict(encoded_image=png(1)), predict(tensor=tensor(2)), predict(encoded_image=b"?")]
    found, expected = predicting.handle(items), worker.handle(items)
    assert [stable(reply) for reply in found] == [stable(reply) for reply in expected]
    [state, refused] = predicting.handle([Item(WorkerRequest(), as_json=False), explain(tensor=tensor(2))])
    assert state.WhichOneof("outcome") is None
    assert refused.error.code == code_pb2.INTERNAL and "only predicts" in refused.error.message


def test_every_item_of_a_mixed_batch_is_answered_as_if_alone(worker: Worker) -> None:
    items: list[Item | ProponentError] = [
        predict(encoded_image=png(0), request_id="a"),
        explain(encoded_image=png(1), request_id="b", top_k=3),
        *(make(**fields) for fields, _, _ in BAD.values() for make in (predict, explain)),
        explain(tensor=tensor(2), request_id="c", target=pb.Target(class_id=0), view=pb.VIEW_THUMBNAIL),
        *(explain(**fields) for fields, _, _ in BAD_OPTIONS.values()),
        InvalidInputError("unreadable row", field="data"),
        Item(WorkerRequest(), as_json=False),
        predict(tensor=tensor(3), request_id="d"),
        Item(
            WorkerRequest(
                score=pb.ScoreExamplesRequest(
                    query=pb.ExplainRequest(encoded_image=png()), example_ids=["toy/3", "nobody"]
                )
            ),
            as_json=False,
        ),
    ]
    replies = worker.handle(items)
    assert len(replies) == len(items)
    alone = [worker.handle([item])[0] for item in items]
    assert [stable(reply) for reply in replies] == [stable(reply) for reply in alone]
    kinds = [reply.WhichOneof("outcome") for reply in replies]
    assert (kinds[0], kinds[1]) == ("predict", "explain")
    assert kinds.count("predict") == 2 and kinds.count("explain") == 2 and kinds.count(None) == 1
    named = [reply.predict.request_id or reply.explain.request_id for reply in replies]
    assert [name for name in named if name] == ["a", "b", "c", "d"]


def test_an_image_and_its_tensor_have_the_same_answer(worker: Worker) -> None:
    first, second = worker.handle([explain(encoded_image=png(4)), explain(tensor=tensor(4))])
    assert stable(first) == stable(second)


def test_an_empty_request_is_a_health_probe(worker: Worker) -> None:
    [item] = read_row({"data": b""}, False, "")
    assert isinstance(item, Item)
    assert worker.handle([item]) == [WorkerReply()]
    assert encode_reply(WorkerReply(), as_json=False) == b""


def test_no_items_have_no_answers(worker: Worker) -> None:
    assert worker.handle([]) == []


def broken(kind: str, bundle: Path, root: Path) -> tuple[Worker, str, int]:
    """A worker that could not load its bundle, and the error that it must tell."""
    if kind == "mismatch":
        weights = {name: value + 1 for name, value in load_file(bundle / "model.safetensors").items()}
        save_file(weights, root / "other.safetensors")
        return (
            Worker.load(bundle, root / "other.safetensors", None),
            "INDEX_MODEL_MISMATCH",
            code_pb2.FAILED_PRECONDITION,
        )
    if kind == "missing":
        return Worker.load(root / "nothing", None, None), "BUNDLE_CORRUPT", code_pb2.UNAVAILABLE
    path = bundle / "rows.faiss"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-4])
        return Worker.load(bundle, None, None), "BUNDLE_CORRUPT", code_pb2.UNAVAILABLE
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["mismatch", "corrupt", "missing"])
def test_a_bundle_that_cannot_be_served_is_the_answer_to_everything(bundle: Path, tmp_path: Path, kind: str) -> None:
    worker, reason, code = broken(kind, bundle, tmp_path)
    replies = worker.handle(
        [
            predict(encoded_image=png()),
            explain(encoded_image=png()),
            predict(encoded_image=b"bad"),
            Item(WorkerRequest(), as_json=False),
            Item(WorkerRequest(flip=pb.FindFlipSetRequest()), as_json=False),
        ]
    )
    assert [(reply.error.reason, reply.error.code) for reply in replies] == [(reason, code)] * 5
    assert all(reply.error.message for reply in replies)
    [unread] = worker.handle([InvalidInputError("unreadable row")])
    assert unread.error.reason == "INVALID_INPUT"


def _exhaust() -> None:
    torch.empty(1 << 46, dtype=torch.uint8)


def _fail() -> None:
    raise ValueError("a secret")


@pytest.mark.parametrize(
    ("fail", "code", "reason", "told", "detail"),
    [
        (_fail, code_pb2.INTERNAL, "INTERNAL", "ValueError: a secret\n", "the worker failed"),
        (_exhaust, code_pb2.UNAVAILABLE, "OUT_OF_MEMORY", "answer this request", "the worker has not enough memory"),
    ],
)
def test_a_failure_in_the_middle_hits_only_the_item_that_causes_it(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[], None],
    code: int,
    reason: str,
    told: str,
    detail: str,
) -> None:
    """The batch is tried again one by one; a defect stays a defect, and memory that runs out is told as such."""
    explainer = Explainer.load(bundle)
    whole = explainer.explain
    poison = tiny.pictures(9, seed=5)[0][2].float()[None] / 255

    def failing(inputs: Sequence[torch.Tensor], *options: Any) -> Any:
        if any(torch.equal(value, poison) for value in inputs):
            fail()
        return whole(inputs, *options)

    monkeypatch.setattr(explainer, "explain", failing)
    replies = Worker(explainer).handle([explain(tensor=tensor(number)) for number in (1, 2, 3)])
    assert [reply.WhichOneof("outcome") for reply in replies] == ["explain", "error", "explain"]
    error = replies[1].error
    assert (error.code, error.reason) == (code, reason) and error.message.endswith(told)
    assert ("in failing" in error.message) == (code == code_pb2.INTERNAL)
    assert json.loads(encode_reply(replies[1], as_json=True))["error"]["detail"].startswith(detail)


# Rows as TorchServe gives them ------------------------------------------------------------------------------


def test_a_serialised_request_is_read_wherever_it_comes() -> None:
    request = WorkerRequest(predict=pb.PredictRequest(encoded_image=png()))
    data = request.SerializeToString()
    for row, kind in (
        ({"data": data}, ""),
        ({"data": bytearray(data)}, ""),
        ({"body": data}, "application/x-protobuf"),
        ({"body": data}, "application/x-protobuf; charset=x"),
    ):
        assert read_row(row, False, kind) == [Item(request, as_json=False)]


def test_a_batch_of_requests_is_read_one_by_one() -> None:
    request = WorkerRequest(predict=pb.PredictRequest(encoded_image=png()))
    good, bad, empty = read_row({"body": joined([request.SerializeToString(), b"\xff", b""])}, False, BATCH)
    assert (good, empty) == (Item(request, as_json=False), Item(WorkerRequest(), as_json=False))
    assert isinstance(bad, InvalidInputError) and bad.field == "data"
    [cut] = read_row({"body": joined([b"abc"])[:-1]}, False, BATCH)
    assert isinstance(cut, InvalidInputError) and "ends within a message" in cut.message


def test_a_raw_image_is_a_prediction_or_an_explanation() -> None:
    [[predicted], [explained]] = (read_row({"body": png()}, explain, OCTETS) for explain in (False, True))
    assert isinstance(predicted, Item) and predicted.request.predict.encoded_image == png() and predicted.as_json
    assert isinstance(explained, Item) and explained.request.explain.encoded_image == png() and explained.as_json


@pytest.mark.parametrize("row", [{}, {"body": None}, {"body": {"a": 1}}, {"data": [1]}, {"body": 3}])
def test_a_row_without_bytes_is_refused(row: dict[str, Any]) -> None:
    [found] = read_row(row, False, OCTETS)
    assert isinstance(found, InvalidInputError) and found.field == "body"


def test_bytes_that_are_no_request_are_refused() -> None:
    [found] = read_row({"data": b"\xff\xff\xff"}, False, "")
    assert isinstance(found, InvalidInputError) and found.field == "data"


def test_a_raw_image_is_answered_in_json(worker: Worker) -> None:
    for asked in (False, True):
        [reply] = worker.handle(read_row({"body": png()}, asked, OCTETS))
        answer = json.loads(encode_reply(reply, as_json=True))
        assert answer["prediction"]["label"] in tiny.CLASSES
        assert ("results" in answer) == asked
    assert [result["measure"] for result in answer["results"]] == [
        "MEASURE_INFLUENCE",
        "MEASURE_THETA_RELATIF",
        "MEASURE_L_RELATIF",
    ]


def test_an_error_is_answered_in_json(worker: Worker) -> None:
    [reply] = worker.handle(read_row({"body": b"hello"}, True, OCTETS))
    error = json.loads(encode_reply(reply, as_json=True))["error"]
    assert error == {
        "reason": "IMAGE_UNREADABLE",
        "detail": "5 bytes are not a PNG or JPEG image",
        "field": "encoded_image",
    }


# The class that TorchServe loads ----------------------------------------------------------------------------


class Context:
    """As much of TorchServe's context as the handler may use."""

    def __init__(self, bundle: Path, headers: Sequence[dict[str, str]], weights: str | None = None) -> None:
        self.model_yaml_config = {"proponent": {"bundle": str(bundle), "weights": weights}}
        self.system_properties: dict[str, Any] = {"gpu_id": None}
        self.headers = headers
        self.types: dict[int, str] = {}
        self.status: dict[int, int] = {}

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self.headers[index]

    def get_request_header(self, index: int, name: str) -> str | None:
        return self.headers[index].get(name)

    def set_response_content_type(self, index: int, kind: str) -> None:
        self.types[index] = kind

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        assert phrase
        self.status[index] = code


@pytest.fixture
def handler() -> Any:
    spec = importlib.util.spec_from_file_location("influence_handler", HANDLER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield module.InfluenceHandler()
    torch.set_num_threads(threads)


def test_the_handler_answers_each_row_in_its_own_language(bundle: Path, handler: Any) -> None:
    request = WorkerRequest(explain=pb.ExplainRequest(encoded_image=png()))
    rows: list[dict[str, Any]] = [
        {"data": request.SerializeToString()},
        {"body": png()},
        {"body": png()},
        {"body": b"hello"},
        {"data": b"\xff\xff\xff"},
        {"body": bytearray(joined([b"\xff", request.SerializeToString(), b""]))},
        {"body": png()},
    ]
    octets = {"Content-Type": OCTETS}
    context = Context(
        bundle, [{}, octets, {**octets, "explain": "True"}, octets, {}, {"Content-type": BATCH}, octets]
    )
    handler.initialize(context)
    replies = handler.handle(rows, context)
    assert len(WorkerReply.FromString(replies[0]).explain.results) == 3
    assert "results" not in json.loads(replies[1]) and "results" in json.loads(replies[2])
    assert json.loads(replies[3])["error"]["reason"] == "IMAGE_UNREADABLE"
    assert WorkerReply.FromString(replies[4]).error.field == "data"
    bad, good, probe = map(WorkerReply.FromString, unpack(replies[5]))
    assert bad.error.field == "data" and len(good.explain.results) == 3 and probe == WorkerReply()
    assert "prediction" in json.loads(replies[6])
    said = [context.types[index].rpartition("/")[2] for index in range(7)]
    assert said == ["x-protobuf", "json", "json", "json", "x-protobuf", "x-protobuf", "json"]
    assert context.status == {3: 400}


def test_the_handler_survives_a_bundle_that_it_cannot_load(tmp_path: Path, handler: Any) -> None:
    context = Context(tmp_path / "nothing", [{}, {"content-type": OCTETS}])
    handler.initialize(context)
    probe, image = handler.handle([{"data": b""}, {"body": png()}], context)
    assert WorkerReply.FromString(probe).error.reason == "BUNDLE_CORRUPT"
    assert json.loads(image)["error"]["reason"] == "BUNDLE_CORRUPT"
    assert context.status == {1: 503}


def test_the_handler_lives_visibly_and_drops_what_nobody_waits_for(
    bundle: Path, handler: Any, tmp_path: Path
) -> None:
    office = TicketIssuer.create(tmp_path / "liveness", 2)
    context = Context(bundle, [{}, {}])
    context.model_yaml_config["proponent"]["liveness"] = str(tmp_path / "liveness")
    handler.initialize(context)
    assert (tmp_path / "liveness" / str(os.getpid())).exists()
    request = WorkerRequest(predict=pb.PredictRequest(encoded_image=png()), ticket=office.issue())
    request.deadline_ns = time.monotonic_ns() + 10**12
    left = WorkerRequest.FromString(request.SerializeToString())
    left.ticket = office.issue()
    office.withdraw(left.ticket)
    rows: list[dict[str, Any]] = [{"data": each.SerializeToString()} for each in (request, left)]
    replies = [WorkerReply.FromString(reply) for reply in handler.handle(rows, context)]
    assert replies[0].predict.prediction.label in tiny.CLASSES
    assert (replies[1].error.code, replies[1].error.reason) == (code_pb2.DEADLINE_EXCEEDED, "CALL_ABANDONED")
