"""CUDA graphs: hundreds of small kernels, that a GPU's host asks for one by one, are recorded and asked for as one.

Where a batch is small, a GPU is done with each kernel before the host has asked for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]

LARGEST = 16
"""Examples of the largest batch that is recorded: of more, the kernels take longer than to ask for them."""
WAITED = 2
"""Calls of a shape before it is recorded: libraries set themselves up at the first."""
MOST = 64
"""Shapes that are recorded; others stay as they are."""
SHARE = 1 / 8
"""Of the GPU's memory that one recording may take; all of them share it."""
DEVIATION = 1e-3
"""Between a replay and the function, relative to the largest entry: other algorithms may have been chosen."""

_log = logging.getLogger("proponent.worker.graphs")


class Replay:
    """Calls of functions of tensors on one GPU, recorded for each shape of the arguments and replayed after that.

    A function that cannot be recorded, because it reads what the GPU computes, goes on being called. It must depend
    on nothing but its arguments and its key. Not thread-safe, as a recording has one place for its arguments.

    Args:
        device: Of all arguments and results.
        checked: How many replays of each recording are compared with the function itself, which then is given up if
            they differ: for functions that call other people's code.
    """

    def __init__(self, device: torch.device, checked: int = 0) -> None:
        self._device = device
        self._checked = checked
        self._shapes: dict[Hashable, _Shape] = {}
        self._pool: Any = None

    @classmethod
    def on(cls, device: torch.device, checked: int = 0) -> Replay | None:
        """Where there is something to be gained: on a GPU."""
        return cls(device, checked) if device.type == "cuda" else None

    def __call__(self, key: Hashable, function: Function, *arguments: Tensor) -> Tensors:
        """What the function gives: tensors of the caller's own.

        Args:
            key: What the function depends on beside the arguments.
            function: From tensors to tensors.
            arguments: The first dimension of the first one is the batch.
        """
        place = (key, *((tuple(each.shape), each.dtype) for each in arguments))
        if place not in self._shapes and (len(arguments[0]) > LARGEST or len(self._shapes) >= MOST):
            return function(*arguments)
        shape = self._shapes.setdefault(place, _Shape(self._checked))
        if shape.recording is None:
            return self._called(shape, function, arguments)
        found = shape.recording.replayed(arguments)
        if not shape.unchecked:
            return found
        shape.unchecked -= 1
        expected = function(*arguments)
        if all(map(_alike, found, expected)):
            return found
        shape.recording = None
        _log.warning("a recording of the model gave something else than the model: it is called instead")
        return expected

    def _called(self, shape: _Shape, function: Function, arguments: Tensors) -> Tensors:
        """The function's own results; records it when its time has come."""
        shape.calls += 1
        if shape.calls != WAITED:
            return function(*arguments)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        found = function(*arguments)
        taken = torch.cuda.max_memory_allocated(self._device) - before
        if taken <= SHARE * torch.cuda.get_device_properties(self._device).total_memory:
            shape.recording = self._recorded(function, arguments)
        return found

    def _recorded(self, function: Function, arguments: Tensors) -> _Recording | None:
        """None where it cannot be."""
        graph, places = torch.cuda.CUDAGraph(), tuple(each.clone() for each in arguments)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            # Other threads may go on: they record nothing.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = function(*places)
        except Exception as error:
            _log.info("not recorded as a CUDA graph: %s: %s", type(error).__name__, str(error).partition("\n")[0])
            return None
        return _Recording(graph, places, results)


@dataclass
class _Shape:
    """What was made of one shape.

    Attributes:
        unchecked: Replays that are still to be compared.
        calls: Of the function.
        recording: None before it was made, and where it cannot be.
    """

    unchecked: int
    calls: int = 0
    recording: _Recording | None = None


@dataclass(frozen=True)
class _Recording:
    """A graph, the tensors that it reads and those that it writes."""

    graph: torch.cuda.CUDAGraph
    arguments: Tensors
    results: Tensors

    def replayed(self, arguments: Sequence[Tensor]) -> Tensors:
        for place, argument in zip(self.arguments, arguments, strict=True):
            place.copy_(argument, non_blocking=True)
        self.graph.replay()
        # Copies: other recordings use the same memory.
        return tuple(each.clone() for each in self.results)


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Whether they are, also where they are not finite."""
    if not found.is_floating_point():
        return torch.equal(found, expected)
    largest = expected.nan_to_num(0.0, 0.0, 0.0).abs().amax() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=float(DEVIATION * largest), equal_nan=True)
