"""CUDA graphs: hundreds of small kernels, that a GPU's host asks for one by one, are recorded and asked for as one.

Where a batch is small, a GPU is done with each kernel before the host has asked for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
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
"""Of the GPU's memory that all recordings may take; what each computes on the way they share."""
DEVIATION = 1e-3
"""Between a replay and the function, relative to the largest entry: other algorithms may have been chosen."""

_log = logging.getLogger("proponent.worker.graphs")
_one_at_a_time = Lock()
"""A process can make one recording at a time: a second one would end up in the first, or empty its memory."""


class Replay:
    """Calls of functions of tensors on one GPU, recorded for each shape of the arguments and replayed after that.

    A function that cannot be recorded, because it reads what the GPU computes, goes on being called. It must depend
    on nothing but its arguments and its key. Not thread-safe, as a recording has one place for its arguments.

    Args:
        device: Of all arguments and results.
        checked: How many replays of each recording are compared with the function itself, on other arguments each
            time. Where one differs nothing is replayed any more: for functions that call other people's code.
    """

    def __init__(self, device: torch.device, checked: int = 0) -> None:
        self._device = device
        self._checked = checked
        self._shapes: dict[Hashable, _Shape] = {}
        self._records = True
        self._recorder: _Recorder | None = None

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
        shape = self._shape(place) if len(arguments[0]) <= LARGEST else None
        if shape is None:
            return function(*arguments)
        if shape.recording is None:
            return self._called(shape, function, arguments)
        if not shape.unchecked:
            return shape.recording.replayed(arguments)
        return self._compared(shape, shape.recording, function, arguments)

    def _shape(self, place: Hashable) -> _Shape | None:
        """What is known of a shape; where there are too many, one that was not recorded makes room if it can."""
        if place not in self._shapes:
            if not self._records:
                return None
            if len(self._shapes) >= MOST:
                waiting = next((other for other, one in self._shapes.items() if one.recording is None), None)
                if waiting is None:
                    return None
                del self._shapes[waiting]
            self._shapes[place] = _Shape(self._checked)
        return self._shapes[place]

    def _called(self, shape: _Shape, function: Function, arguments: Tensors) -> Tensors:
        """The function's own results; records it when its time has come."""
        shape.calls += 1
        if shape.calls != WAITED or not self._records:
            return function(*arguments)
        if self._recorder is None:
            self._recorder = _Recorder(self._device)
        found, recordable = self._recorder.measured(function, arguments)
        if recordable:
            try:
                shape.recording = self._recorder.recording(function, arguments)
            except Exception as error:
                # Once: what reads the GPU's numbers does so in every shape, and a failure may cost memory.
                self._records = False
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                _log.warning("not recorded as a CUDA graph, nor is anything after it: %s", why)
        return found

    def _compared(self, shape: _Shape, recording: _Recording, function: Function, arguments: Tensors) -> Tensors:
        """What the function gives, after a look at what its recording gives."""
        # The same arguments again would be answered rightly by a recording that computes nothing.
        differ = not all(map(torch.equal, recording.arguments, arguments))
        found, expected = recording.replayed(arguments), function(*arguments)
        if all(map(_alike, found, expected)):
            shape.unchecked -= differ
        else:
            self._shapes.clear()
            self._records = False
            _log.warning("a recording of the model gave something else than the model, which is called from now on")
        return expected


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


class _Recorder:
    """Makes the recordings of one GPU, which share a pool of memory."""

    def __init__(self, device: torch.device) -> None:
        # The current GPU need not be the one of the tensors: on its stream nothing of theirs would be recorded.
        self._device = torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._left = int(SHARE * torch.cuda.get_device_properties(self._device).total_memory)

    def measured(self, function: Function, arguments: Tensors) -> tuple[Tensors, bool]:
        """The function's results, and whether there is room for a recording of it."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        found = function(*arguments)
        taken = torch.cuda.max_memory_allocated(self._device) - before
        kept = sum(each.nbytes for each in (*arguments, *found))
        if taken + kept > self._left:
            return found, False
        self._left -= kept
        return found, True

    def recording(self, function: Function, arguments: Tensors) -> _Recording:
        """A recording of a call. Raises whatever a function raises that cannot be recorded."""
        # In inference mode nothing could be copied to the arguments later, outside of it.
        with _one_at_a_time, torch.cuda.device(self._device), torch.inference_mode(False):
            graph, places = torch.cuda.CUDAGraph(), tuple(each.clone() for each in arguments)
            # Set here as well: a recording that fails leaves its stream as the current one.
            with torch.cuda.stream(self._stream):
                try:
                    # Other threads may go on: they record nothing.
                    with torch.cuda.graph(
                        graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                    ):
                        results = function(*places)
                except Exception:
                    self._leave_pool()
                    raise
            return _Recording(graph, places, results)

    def _leave_pool(self) -> None:
        """Ends a recording for the allocator too: before PyTorch 2.12 it would free no memory any more."""
        with suppress(RuntimeError):  # it has ended
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Whether they are, also where they are not finite."""
    if not found.is_floating_point():
        return torch.equal(found, expected)
    largest = expected.nan_to_num(0.0, 0.0, 0.0).abs().amax() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=float(DEVIATION * largest), equal_nan=True)
