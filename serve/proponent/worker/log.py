"""Log lines of a worker say which calls were being answered when they were written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from proponent.errors import printable
from proponent.v1.worker_pb2 import WorkerRequest

_suffix: ContextVar[str] = ContextVar("suffix", default="")


class _NamesCalls(logging.Formatter):
    """A line as the model server writes it, with the ids of the batch; its own lines before are read by Java."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="") + _suffix.get()


def configure_worker_logs() -> None:
    """Makes every later line on the handlers of the root logger name its calls."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_NamesCalls("%(message)s"))


@contextmanager
def working_on(requests: Sequence[WorkerRequest]) -> Iterator[None]:
    """A block whose log lines name these requests."""
    ids = ",".join(request.request_id for request in requests if request.request_id)
    traces = ",".join(dict.fromkeys(request.traceparent[3:35] for request in requests if request.traceparent))
    named = (f" {name}={value}" for name, value in (("request_id", ids), ("trace_id", traces)) if value)
    before = _suffix.set(printable("".join(named), keep=""))
    try:
        yield
    finally:
        _suffix.reset(before)
