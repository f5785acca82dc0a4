"""A gRPC error as the error of this package that the server raised."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from proponent.errors import ProponentError, error_kind
from proponent.v1.explanation_pb2 import ItemError

_STATUS_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True)
class Failure:
    """Why one try failed, and how long the server advises to wait before another (0 where it does not say)."""

    error: ProponentError
    retry_delay_s: float = 0.0


def failure_of(error: grpc.RpcError) -> Failure:
    """Reads code, message and details of a failed call."""
    reason, field, delay_s = "", "", 0.0
    for detail in _status(error).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, field = info.reason, info.metadata["field"]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay_s = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToNanoseconds() / 1e9
    kind = error_kind(error.code().value[0], reason)
    return Failure(kind(error.details() or error.code().name, field=field, reason=reason), delay_s)


def item_error(item: ItemError) -> ProponentError:
    """The error of one item of a stream."""
    return error_kind(item.code, item.reason)(item.message, field=item.field, reason=item.reason)


def _status(error: grpc.RpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_DETAILS:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()
