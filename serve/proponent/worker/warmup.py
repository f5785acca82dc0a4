"""What a worker does before it counts as ready: it answers for a warm-up input a few times.

The first answer of a process takes many times as long as those after it, and no caller should be the one who
waits for it. The others show how many threads are fastest here: small models lose more by threads that wait for each
other, and for a core that something else uses, than they gain.
"""

from __future__ import annotations

import io
import logging
import statistics
import time

import torch
from PIL import Image

from proponent.attribution.inputs import Example, NamedInputs
from proponent.explainer import Predictor
from proponent.signature import InputKind, TensorSignature
from proponent.text import Text
from proponent.user_code.made_up import made_up_inputs
from proponent.worker.inputs import image_tensor

_ROUNDS = 5
_UNTIL_REPLAYED = 4
"""Answers after the first one until a CUDA graph of one input was recorded and compared."""
_BUDGET_S = 2.0
# So much of the time must be left for more threads to be worth their cores.
_WORTHWHILE = 0.9
_TEXT = "a text of some length, as others are: " * 2
_ANY_SIZE = 32
"""Of a dimension that may have any."""
_log = logging.getLogger("proponent.worker.batch")


def warmed_up(predictor: Predictor) -> Predictor:
    """The same, after answers by which torch's number of threads was chosen: all it had, or one.

    A model that refuses the warm-up input stays cold; its callers get their own errors.
    """
    threads = torch.get_num_threads()
    try:
        first = _answer(predictor)
        if predictor.classifier.device.type != "cpu":
            for value in _different_inputs(predictor):
                predictor.rehearse(value)
        elif threads > 1:
            torch.set_num_threads(_faster(predictor, threads))
        _log.info("warmed up: the first answer took %.3g s; threads: %d", first, torch.get_num_threads())
    except Exception as error:
        torch.set_num_threads(threads)
        _log.warning("not warmed up: %s: %s", type(error).__name__, error)
    return predictor


def _faster(predictor: Predictor, threads: int) -> int:
    """Of ``threads`` and one; both are tried in turn, so that what else the machine does meets both alike."""
    seconds: dict[int, list[float]] = {threads: [], 1: []}
    started = time.monotonic()
    for _ in range(_ROUNDS):
        for number, taken in seconds.items():
            torch.set_num_threads(number)
            taken.append(_answer(predictor))
        if time.monotonic() - started > _BUDGET_S:
            break
    many, one = (statistics.median(seconds[number]) for number in (threads, 1))
    _log.info("an answer takes %.3g s with %d threads, %.3g s with 1", many, threads, one)
    return threads if many < _WORTHWHILE * one else 1


def _answer(predictor: Predictor) -> float:
    started = time.perf_counter()
    predictor.rehearse(_warm_up_input(predictor))
    return time.perf_counter() - started


def _different_inputs(predictor: Predictor) -> list[Example]:
    """By which a recording is compared with the model; the same each time where a bundle says of none."""
    if probes := predictor.manifest.probes:
        return made_up_inputs(predictor.signature, probes)
    return [_warm_up_input(predictor)] * _UNTIL_REPLAYED


def _warm_up_input(predictor: Predictor) -> Example:
    """A black image, decoded as a caller's would be, or what is made up where the model takes something else."""
    signature = predictor.signature
    if not signature.image_size:
        return _made_up(predictor)
    file = io.BytesIO()
    Image.new(signature.mode, list(signature.image_size)).save(file, format="PNG")
    return image_tensor(file.getvalue(), signature, predictor.classifier.transform)


def _made_up(predictor: Predictor) -> Example:
    """A text that goes through the transform, the longest sizes that are known, or zeros."""
    signature = predictor.signature
    if signature.kind is InputKind.TEXT:
        return predictor.accept(Text(_TEXT))
    zeros = {each.name: torch.zeros(_sizes(each), dtype=getattr(torch, each.dtype)) for each in signature.tensors}
    return NamedInputs(zeros) if signature.is_named else zeros.get("", torch.zeros(signature.shape))


def _sizes(tensor: TensorSignature) -> list[int]:
    return [_ANY_SIZE if size == -1 else size for size in tensor.shape]
