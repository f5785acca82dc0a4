"""What the gateway is told of a request that could not be answered."""

from __future__ import annotations

import traceback

import torch

from proponent.errors import InternalError, ProponentError, UnavailableError

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


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory could not be had, on the processor or on a GPU; PyTorch has no type for the first."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY in str(error)
