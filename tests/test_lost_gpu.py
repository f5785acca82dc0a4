"""A process that has lost its GPU answers what it was asked, and makes way for another one."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from google.rpc import code_pb2

from proponent.bounds.frames import LENGTH, frame_size, pack, unpack
from proponent.errors import InvalidInputError
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker import batch, process
from proponent.worker.batch import Item, Worker

HANDLER = Path(__file__).parent.parent / "handlers" / "influence_handler.py"
ASSERTED = torch.AcceleratorError("CUDA error: device-side assert triggered")


def failing(error: Exception) -> Any:
    """What raises, whatever it is asked."""

    def fail(*asked: Any) -> Any:
        raise error

    return fail


def asking(monkeypatch: pytest.MonkeyPatch, error: Exception, after: Exception | None = None) -> Worker:
    """A worker whose calls of a model fail, and whose GPU fails after that or does not."""
    monkeypatch.setitem(batch._CALLS, "predict", failing(error))  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "synchronize", failing(after) if after else lambda device: None)
    predictor: Any = SimpleNamespace(classifier=SimpleNamespace(device=torch.device("cuda", 1)))
    return Worker(predictor)


REQUEST = WorkerRequest(predict=pb.PredictRequest())


@pytest.mark.parametrize(
    ("error", "after", "lost"),
    [
        (ASSERTED, ASSERTED, True),
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), None, False),
        (InvalidInputError("another shape"), ASSERTED, False),
        (torch.OutOfMemoryError("CUDA out of memory"), ASSERTED, False),
    ],
)
def test_an_error_after_which_the_gpu_fails_again_has_ended_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception, after: Exception | None, lost: bool
) -> None:
    worker = asking(monkeypatch, error, after)
    assert not worker.is_lost
    replies = worker.handle([Item(REQUEST, as_json=False)] * 2)
    assert [reply.WhichOneof("outcome") for reply in replies] == ["error"] * 2 and worker.is_lost == lost
    assert (replies[0].error.code == code_pb2.INTERNAL) == isinstance(error, torch.AcceleratorError)


def test_a_process_ends_once_it_has_replied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = asking(monkeypatch, ASSERTED, ASSERTED)
    monkeypatch.setattr(process, "started_worker", lambda section, device: worker)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        status: list[int] = []
        running = Thread(target=lambda: status.append(process.main([path, "name", json.dumps({})])), daemon=True)
        running.start()
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            for expected in ([b"name"], None):
                found = unpack(stream.read(frame_size(stream.read(LENGTH.size))))
                if expected is not None:
                    assert found == expected
                    connection.sendall(pack([REQUEST.SerializeToString()]))
            assert WorkerReply.FromString(found[0]).error.code == code_pb2.INTERNAL
            assert stream.read() == b"", "it has hung up"
        running.join(10)
    assert status == [1]


def test_torchserve_is_left_at_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("influence_handler", HANDLER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.InfluenceHandler()
    handler._worker = asking(monkeypatch, ASSERTED, ASSERTED)
    context: Any = SimpleNamespace(get_all_request_header=lambda index: {}, set_response_content_type=lambda *_: None)
    rows = [{"data": REQUEST.SerializeToString()}]
    [reply] = handler.handle(rows, context)
    assert WorkerReply.FromString(reply).error.code == code_pb2.INTERNAL
    with pytest.raises(SystemExit, match="GPU"):
        handler.handle(rows, context)
