"""What the gateway is told of a request that could not be answered."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from proponent.errors import InternalError, ProponentError, UnavailableError
from proponent.v1.worker_pb2 import WorkerRequest

_NO_MEMORY = "can't allocate memory"


def failure(error: Exception) -> ProponentError:
    """An error as the answer to one request.

    Memory that a machine lacks now is no defect: the caller may come again. A defect comes with the whole traceback,
    for the gateway's log: no caller may see it.
    """
    if isinstance(error, ProponentError):
        return error
    if is_out_of_memory(error):
        return UnavailableError("the worker has not enough memory to answer this request", reason="OUT_OF_MEMORY")
    return InternalError("".join(traceback.format_exception(error)))


def located(error: ProponentError, request: WorkerRequest) -> ProponentError:
    """An error about a text, a record or tensors by name says which of them."""
    call = request.WhichOneof("call")
    asked: Any = getattr(request, call) if call else None
    query = getattr(asked, "query", asked)
    kind = query.WhichOneof("input") if query is not None else None
    if error.field == "input" and kind in ("text", "record", "tensors"):
        error.field = kind
    return error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory could not be had, on the processor or on a GPU; PyTorch has no type for the first."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY in str(error)


def is_gpu_lost(error: Exception, device: torch.device) -> bool:
    """Whether an error has ended a process's use of its GPU, as an index out of bounds there does.

    Whatever is asked of the GPU after that fails with the same error, until another process asks.
    """
    if not isinstance(error, torch.AcceleratorError):
        return False
    try:
        torch.cuda.synchronize(device)
    except torch.AcceleratorError:
        return True
    return False
