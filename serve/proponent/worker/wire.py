"""Requests and replies as bytes: what comes to a worker, by whatever way, and how its replies go back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from proponent.bounds.frames import BATCH, joined, unpack
from proponent.errors import InvalidInputError, ProponentError, UnsupportedMediaTypeError
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item

PROTOBUF = "application/x-protobuf"
_IMAGE_KEYS = ("data", "body", "image")
_FORM = "application/x-www-form-urlencoded"
# TorchServe decodes such a body as text before the handler sees it, so the image is lost.
_AS_FORM = (
    "the image came as a URL-encoded form, which is what curl says by default: use curl --upload-file, or add "
    "--header 'Content-Type: application/octet-stream'"
)
_DEFECT = "the worker failed"


def read_row(row: Mapping[str, Any], explain: bool, content_type: str) -> list[Item | ProponentError]:
    """Reads one row of TorchServe's batch: one item, or those of a batch that a gateway made.

    A serialized WorkerRequest comes in ``data`` over gRPC, or in a body of type application/x-protobuf; any
    other body, or file of a multipart form, is a raw image with default options, and ``explain`` says at which of
    TorchServe's two paths.
    """
    if content_type.startswith(_FORM):
        return [UnsupportedMediaTypeError(_AS_FORM, field="content-type")]
    content = next((row[key] for key in _IMAGE_KEYS if row.get(key) is not None), None)
    if not isinstance(content, bytes | bytearray):
        return [InvalidInputError("request body is empty or JSON, expected the bytes of an image", field="body")]
    data = bytes(content)
    if is_batch(content_type):
        return _batch(data)
    return [_raw_image(data, explain)] if speaks_json(row, content_type) else read_messages([data])


def read_messages(requests: Iterable[bytes]) -> list[Item | ProponentError]:
    """Reads serialized WorkerRequests."""
    return [_message(request) for request in requests]


def speaks_json(row: Mapping[str, Any], content_type: str) -> bool:
    """Whether a row came over HTTP from a caller that knows nothing of WorkerRequest."""
    return not content_type.startswith(PROTOBUF) and ("body" in row or bool(content_type))


def is_batch(content_type: str) -> bool:
    """Whether a row is a batch that a gateway made."""
    return content_type == BATCH


def _batch(data: bytes) -> list[Item | ProponentError]:
    try:
        return read_messages(unpack(data))
    except ValueError as error:
        return [InvalidInputError(str(error), field="data")]


def _message(data: bytes) -> Item | ProponentError:
    try:
        return Item(WorkerRequest.FromString(data), as_json=False)
    except DecodeError:
        return InvalidInputError("data is not a serialized proponent.v1.WorkerRequest", field="data")


def _raw_image(data: bytes, explain: bool) -> Item:
    if explain:
        return Item(WorkerRequest(explain=pb.ExplainRequest(encoded_image=data)), as_json=True)
    return Item(WorkerRequest(predict=pb.PredictRequest(encoded_image=data)), as_json=True)


def encode_replies(replies: Iterable[WorkerReply]) -> bytes:
    """The replies to a batch that a gateway made, as one body."""
    return joined(reply.SerializeToString() for reply in replies)


def encode_reply(reply: WorkerReply, as_json: bool) -> bytes:
    """A reply as bytes: the message itself, or for a raw image the JSON of what is inside."""
    if not as_json:
        return reply.SerializeToString()
    kind = reply.WhichOneof("outcome")
    if kind == "error":
        error = reply.error
        detail = _DEFECT if error.code == code_pb2.INTERNAL else error.message
        return json.dumps({"error": {"reason": error.reason, "detail": detail, "field": error.field}}).encode()
    return MessageToJson(getattr(reply, kind or "predict"), preserving_proto_field_name=True).encode()
