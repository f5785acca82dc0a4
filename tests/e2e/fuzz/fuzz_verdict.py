"""What is a finding: an answer that no caller should get, whatever was sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_ANSWERS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
}
_LATER = {grpc.StatusCode.UNAVAILABLE}
SERVER_ERRORS = 500
UNAVAILABLE = 503
LATE = 504


def reply_fault(reply: type[Message], data: bytes) -> str:
    """What is wrong with a reply; empty where nothing is."""
    try:
        reply.FromString(data)
    except DecodeError:
        return f"the reply is not a {reply.DESCRIPTOR.full_name}"
    return ""


def error_fault(error: grpc.RpcError) -> str:
    """What is wrong with a refusal: a defect, one without reason, or no word of when to come back."""
    code, metadata = error.code(), {key: value for key, value in error.trailing_metadata() or ()}
    if code not in _ANSWERS:
        return f"{code.name}: {error.details()}"
    data = metadata.get("grpc-status-details-bin", b"")
    details = {each.TypeName() for each in status_pb2.Status.FromString(data).details}
    if error_details_pb2.ErrorInfo.DESCRIPTOR.full_name not in details:
        return f"{code.name} without a reason: {error.details()}"
    if code in _LATER and error_details_pb2.RetryInfo.DESCRIPTOR.full_name not in details:
        return f"{code.name} without RetryInfo: {error.details()}"
    return ""


def http_fault(status: int, headers: Mapping[str, str], body: bytes, *, own_deadline: bool = False) -> str:
    """What is wrong with a status, or with the body of an error; who brings a deadline may be told that it passed."""
    announced = (status == UNAVAILABLE and "retry-after" in headers) or (status == LATE and own_deadline)
    if status >= SERVER_ERRORS and not announced:
        return f"{status}: {body[:500]!r}"
    if status >= 400 and not _tells(body):
        return f"{status} without a reason: {body[:500]!r}"
    return ""


def raw_http_fault(answer: bytes) -> str:
    """What is wrong with what came back over a connection: nothing is right for what became no request."""
    if not answer:
        return ""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return f"not an HTTP response: {answer[:200]!r}"
    headers = dict(line.decode("latin-1").lower().split(": ", 1) for line in lines if b": " in line)
    status = int(words[1])
    return http_fault(status, headers, body) if status >= SERVER_ERRORS else ""


def _tells(body: bytes) -> bool:
    try:
        problem: Any = json.loads(body)
    except ValueError:
        return False
    return isinstance(problem, dict) and bool(problem.get("reason"))
