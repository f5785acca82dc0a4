"""An answer says where its time went, and a worker's log lines say for whom it was working."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

import tiny
from proponent.index.store import Store
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker
from proponent.worker.log import _NamesCalls

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    root = tmp_path_factory.mktemp("stages")
    bundle = rebuild(load_spec(tiny.project(root)), Store(root / "store"), RebuildOptions(quiet=True))
    return Worker.load(bundle, None, None)


def query(number: int = 0) -> pb.ExplainRequest:
    values = tiny.pictures(9, seed=5)[0][number].float().numpy() / 255
    tensor = pb.Tensor(shape=[1, 6, 6], dtype="float32", data=values.astype("<f4").tobytes())
    return pb.ExplainRequest(tensor=tensor, top_k=2)


def requests(example_id: str) -> dict[str, WorkerRequest]:
    predict = pb.PredictRequest(tensor=query().tensor)
    return {
        "predict": WorkerRequest(predict=predict),
        "explain": WorkerRequest(explain=query()),
        "score": WorkerRequest(score=pb.ScoreExamplesRequest(query=query(), example_ids=[example_id])),
        "removal": WorkerRequest(removal=pb.EstimateRemovalRequest(query=query(), example_ids=[example_id])),
        "flip": WorkerRequest(flip=pb.FindFlipSetRequest(query=query(), max_size=5)),
    }


EMBED = ["decode", "forward", "backward", "embed"]
STAGES = {
    "predict": ["decode", "forward"],
    "explain": [*EMBED, "search", "lookup"],
    "score": [*EMBED, "search"],
    "removal": [*EMBED, "removal"],
    "flip": [*EMBED, "removal"],
}


def handled(worker: Worker, *asked: WorkerRequest) -> list[WorkerReply]:
    replies = worker.handle([Item(request, as_json=False) for request in asked])
    assert not any(reply.HasField("error") for reply in replies), replies
    return replies


@pytest.mark.parametrize("kind", STAGES)
def test_each_kind_of_call_says_its_stages_in_order(worker: Worker, kind: str) -> None:
    [explained] = handled(worker, WorkerRequest(explain=query()))
    request = requests(explained.explain.results[0].proponents[0].example_id)[kind]
    request.sent_ns = sent = time.monotonic_ns()
    time.sleep(0.005)
    [reply] = handled(worker, request)
    assert [stage.name for stage in reply.stages] == ["queue", *STAGES[kind]]
    times = [sent, *(t for stage in reply.stages for t in (stage.start_ns, stage.end_ns)), time.monotonic_ns()]
    assert times == sorted(times)
    assert reply.stages[0].start_ns == sent and reply.stages[0].end_ns - sent >= 5_000_000
    assert reply.batch_size == 1


def test_a_batch_shares_its_stages_and_each_item_has_its_own_wait(worker: Worker) -> None:
    asked = [WorkerRequest(explain=query(n), sent_ns=n and time.monotonic_ns()) for n in range(3)]
    replies = handled(worker, *asked, WorkerRequest(predict=pb.PredictRequest(tensor=query().tensor)))
    assert [reply.batch_size for reply in replies] == [3, 3, 3, 1]
    shared = [[stage for stage in reply.stages if stage.name != "queue"] for reply in replies]
    assert shared[0] == shared[1] == shared[2] and len(shared[0]) == 6
    assert [len(reply.stages) for reply in replies[:3]] == [6, 7, 7]


def test_the_reply_to_explain_tells_its_caller_too(worker: Worker) -> None:
    [reply] = handled(worker, WorkerRequest(explain=query()))
    assert [timing.stage for timing in reply.explain.timings] == STAGES["explain"]
    assert all(timing.duration.ToNanoseconds() > 0 for timing in reply.explain.timings)


def test_lines_name_the_calls_of_the_batch_and_no_line_after_it() -> None:
    code = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
logging.info("Torch worker started.")
from proponent.worker.log import configure_worker_logs, working_on
from proponent.v1.worker_pb2 import WorkerRequest
configure_worker_logs()
batch = [WorkerRequest(request_id="a"), WorkerRequest(request_id="b\\x1b[2J", traceparent=PARENT), WorkerRequest()]
with working_on(batch):
    logging.getLogger("somebody.elses").warning("odd\\nforged request_id=%s", "c")
logging.info("idle")
""".replace("PARENT", repr(PARENT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    named = f"request_id=a,b\\x1b[2J trace_id={PARENT[3:35]}"
    assert done.stdout.splitlines() == ["Torch worker started.", f"odd\\nforged request_id=c {named}", "idle"]


def test_a_worker_that_answers_names_the_call(worker: Worker) -> None:
    """What the user's own model logs is named as well."""
    seen: list[str] = []

    def hook(*_: object) -> None:
        record = logging.LogRecord("model", logging.INFO, "", 0, "odd input", (), None)
        seen.append(_NamesCalls("%(message)s").format(record))

    explainer = worker._loaded.predictor
    handle = explainer.classifier.model.register_forward_hook(hook)  # type: ignore[union-attr]
    try:
        handled(worker, WorkerRequest(explain=query(), request_id="mine"))
    finally:
        handle.remove()
    assert seen == ["odd input request_id=mine"]
