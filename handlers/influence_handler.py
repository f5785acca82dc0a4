"""The class that TorchServe loads: it hands batches to ``proponent.worker`` and the replies back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from proponent.errors import ProponentError
from proponent.worker import Item, Worker, encode_reply, read_item


class InfluenceHandler:
    """Predicts and explains. Configured by the section ``proponent`` of model-config.yaml."""

    def __init__(self) -> None:
        self._worker: Worker

    def initialize(self, context: Any) -> None:
        """Loads the bundle onto the GPU that TorchServe gave this worker, or the CPU."""
        section = context.model_yaml_config["proponent"]
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        weights = Path(section["weights"]) if section.get("weights") else None
        self._worker = Worker.load(Path(section["bundle"]), weights, _device(context))

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One reply for each row of a batch, whatever its mix of predictions and explanations."""
        items = [
            read_item(
                row, _header(context, index, "explain").lower() == "true", _header(context, index, "content-type")
            )
            for index, row in enumerate(rows)
        ]
        replies = self._worker.answer(items)
        return [
            self._finish(item, reply, context, i) for i, (item, reply) in enumerate(zip(items, replies, strict=True))
        ]

    def _finish(self, item: Item | ProponentError, reply: Any, context: Any, index: int) -> bytes:
        as_json = item.as_json if isinstance(item, Item) else bool(_header(context, index, "content-type"))
        context.set_response_content_type(index, "application/json" if as_json else "application/x-protobuf")
        if as_json and reply.WhichOneof("outcome") == "error":
            context.set_response_status(
                400 if reply.error.code == 3 else 503, "Bad input" if reply.error.code == 3 else "Unavailable", index
            )
        return encode_reply(reply, as_json)


def _header(context: Any, index: int, name: str) -> str:
    return str(context.get_request_header(index, name) or "")


def _device(context: Any) -> torch.device | None:
    gpu = context.system_properties.get("gpu_id")
    return torch.device("cuda", int(gpu)) if gpu is not None and torch.cuda.is_available() else None
