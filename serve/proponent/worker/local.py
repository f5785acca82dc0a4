"""A request answered in this process, by the same worker code that TorchServe runs."""

from __future__ import annotations

from pathlib import Path

from proponent.client.failures import item_error
from proponent.explainer import Explainer
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker


def answer(bundle: Path, request: WorkerRequest) -> WorkerReply:
    """The reply of a worker that has loaded a bundle.

    Raises:
        ProponentError: Why there is none.
    """
    [reply] = Worker(Explainer.load(bundle)).handle([Item(request, as_json=False)])
    if reply.HasField("error"):
        raise item_error(reply.error)
    return reply
