"""Requests answered in this process, by the same worker code that TorchServe runs."""

from __future__ import annotations

from pathlib import Path

from proponent.client.failures import item_error
from proponent.explainer import Explainer
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker


class LocalWorker:
    """A worker that has loaded a bundle; a bundle that cannot be loaded raises a ProponentError."""

    def __init__(self, bundle: Path) -> None:
        self._worker = Worker(Explainer.load(bundle))

    def answer(self, request: WorkerRequest) -> WorkerReply:
        """The reply.

        Raises:
            ProponentError: Why there is none.
        """
        [reply] = self._worker.handle([Item(request, as_json=False)])
        if reply.HasField("error"):
            raise item_error(reply.error)
        return reply
