"""Products of float32 numbers in float32, whatever a process has chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_backends: Any = torch.backends
_CUDNN = (_backends.cudnn.conv, _backends.cudnn.rnn)
_PROCESSORS = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.mkldnn.rnn)
_KEEPERS = (*_CUDNN, _backends.cuda.matmul, *_PROCESSORS)
"""What keeps a precision for products of float32 tensors: on a GPU TF32, on some processors bf16 as well."""


class _SinglePrecision:
    """PyTorch's choice of a precision, of which a process has one: the first thread sets it, the last restores it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._restore: Callable[[], None]

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore = _take_single_precision()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore()


_chosen = _SinglePrecision()


@contextmanager
def single_precision() -> Iterator[None]:
    """Products of float32 tensors keep float32, without TF32, which convolutions take by default on a GPU.

    Its error of 1e-3 has no bound that holds for what a network makes of it. Sums of products in fp16 are float32 as
    well. The process's own choice holds again behind it, by whichever of PyTorch's interfaces it was made.
    """
    _chosen.enter()
    try:
        yield
    finally:
        _chosen.leave()


def _take_single_precision() -> Callable[[], None]:
    """What makes the choice that it finds again."""
    before = [keeper.fp32_precision for keeper in _KEEPERS]
    overall, in_half = _matmul_precision(), _backends.cuda.matmul.allow_fp16_accumulation

    def restore() -> None:
        _choose(overall, before, tf32="tf32" in before[: len(_CUDNN)], in_half=in_half)

    _choose("highest", ["ieee"] * len(_KEEPERS), tf32=False, in_half=False)
    return restore


def _choose(overall: str, each: Sequence[str], *, tf32: bool, in_half: bool) -> None:
    """By both of PyTorch's interfaces, which it compares: first the older one, which sets the newer one as well."""
    torch.set_float32_matmul_precision(overall)
    _backends.cudnn.allow_tf32 = tf32
    for keeper, precision in zip(_KEEPERS, each, strict=True):
        keeper.fp32_precision = precision
    _backends.cuda.matmul.allow_fp16_accumulation = in_half


def _matmul_precision() -> str:
    """By the older interface; where a process uses the newer one it refuses to answer, and was left as it is."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"
