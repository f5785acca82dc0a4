"""The class that TorchServe loads: it hands batches to ``proponent.worker.batch`` and the replies back."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import torch

from proponent.v1.worker_pb2 import WorkerReply
from proponent.worker.batch import Worker
from proponent.worker.starting import started_worker
from proponent.worker.wire import PROTOBUF, encode_replies, encode_reply, is_batch, read_row, speaks_json

# HTTP status and phrase by google.rpc.Code.
_STATUS = {3: (400, "Bad Request"), 4: (504, "Gateway Timeout"), 13: (500, "Internal Server Error")}
_UNAVAILABLE = (503, "Service Unavailable")


class InfluenceHandler:
    """Predicts and explains, or predicts only. Configured by the section ``proponent`` of model-config.yaml."""

    def __init__(self) -> None:
        self._worker: Worker

    def initialize(self, context: Any) -> None:
        """Loads the bundle onto the GPU that TorchServe gave this worker, or the CPU."""
        self._worker = started_worker(context.model_yaml_config["proponent"], _device(context))

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One reply for each row: an image, a request, or a whole batch of requests that a gateway gathered.

        Raises:
            SystemExit: The GPU was lost at the call before; TorchServe starts another worker.
        """
        if self._worker.is_lost:
            raise SystemExit("the GPU cannot be used by this process any more")
        types = [_header(context, index, "content-type").lower() for index in range(len(rows))]
        read = [
            read_row(row, _header(context, index, "explain").lower() == "true", types[index])
            for index, row in enumerate(rows)
        ]
        replies = iter(self._worker.handle(list(chain.from_iterable(read))))
        return [
            _encoded(list(islice(replies, len(read[index]))), row, types[index], context, index)
            for index, row in enumerate(rows)
        ]


def _encoded(replies: list[WorkerReply], row: dict[str, Any], content_type: str, context: Any, index: int) -> bytes:
    as_json = speaks_json(row, content_type)
    context.set_response_content_type(index, "application/json" if as_json else PROTOBUF)
    if is_batch(content_type):
        return encode_replies(replies)
    [reply] = replies
    if as_json and reply.WhichOneof("outcome") == "error":
        context.set_response_status(*_STATUS.get(reply.error.code, _UNAVAILABLE), index)
    return encode_reply(reply, as_json)


def _header(context: Any, index: int, name: str) -> str:
    """A header by its name in lower case; callers write it as they like."""
    headers = context.get_all_request_header(index)
    return next((str(value) for key, value in headers.items() if key.lower() == name), "")


def _device(context: Any) -> torch.device | None:
    gpu = context.system_properties.get("gpu_id")
    return torch.device("cuda", int(gpu)) if gpu is not None and torch.cuda.is_available() else None
