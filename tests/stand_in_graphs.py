"""CUDA graphs without a GPU: operations on a processor are recorded and done again on the same tensors.

As on a GPU a recording has computed nothing when it is made, keeps the addresses that it saw, fails where a number is
read, and then leaves its stream as the current one and the allocator in the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from typing_extensions import override

_aten = torch.ops.aten
READING = (_aten._local_scalar_dense.default, _aten.nonzero.default, _aten._unique2.default)


@dataclass
class StandIn:
    """What a process would see of its GPU.

    Attributes:
        total_memory: Bytes.
        taken: What each call of a function is said to take on the way.
        streams: Made so far, by their devices.
        current: Stream.
        devices: That were current when a recording was made.
        pools: In which the allocator believes to be recording.
        recordings: Begun so far.
    """

    total_memory: int = 1 << 40
    taken: int = 0
    streams: list[torch.device] = field(default_factory=list)
    current: Any = "default"
    device: Any = 0
    devices: list[Any] = field(default_factory=list)
    pools: list[int] = field(default_factory=list)
    recordings: int = 0

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def on_device(self, device: Any) -> Iterator[None]:
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def recording(self, graph: Graph, *, pool: int, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert stream == self.current and capture_error_mode == "thread_local"
        assert pool not in self.pools, "already recording to this pool"
        self.recordings += 1
        self.devices.append(self.device)
        self.pools.append(pool)
        self.current = stream
        with graph:
            yield
        self.pools.remove(pool)

    def end_allocation(self, device: int, pool: int) -> None:
        if pool not in self.pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools.remove(pool)

    def stream(self, device: torch.device) -> str:
        self.streams.append(device)
        return f"side {len(self.streams)}"


class Graph(TorchDispatchMode):
    """Operations, done again by `replay`."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._given = set[int]()

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING:
            raise RuntimeError("operation not permitted when stream is capturing")
        made = {_memory(each) for *_, found in self._operations for each in _tensors(found)}
        self._given |= {_memory(each) for each in _tensors((args, kwargs))} - made
        found = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, found))
        return found

    @override
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        for *_, found in self._operations:
            for each in _tensors(found):  # garbage, until it is computed
                if each.is_floating_point() and _memory(each) not in self._given:
                    with torch.no_grad():
                        each.detach().fill_(torch.nan)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, found in self._operations:
            for place, value in zip(_tensors(found), _tensors(func(*args, **kwargs)), strict=True):
                place.detach().copy_(value)


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_iter(tree) if isinstance(each, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Takes the place of what a recording asks of CUDA."""
    found = StandIn()
    replaced: dict[str, Callable[..., Any]] = {
        "CUDAGraph": Graph,
        "graph": found.recording,
        "graph_pool_handle": lambda: 7,
        "Stream": found.stream,
        "stream": found.on_stream,
        "device": found.on_device,
        "current_device": lambda: 0,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: found.taken,
        "reset_peak_memory_stats": lambda device: None,
        "get_device_properties": lambda device: SimpleNamespace(total_memory=found.total_memory),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", found.end_allocation, raising=False)
    return found
