"""Made-up inputs, the same for ever, from hashes alone: see `proponent.user_code.probe` for what they are for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from proponent.attribution.inputs import Example, Inputs, NamedInputs, RaggedInputs, tensors_of
from proponent.raw_inputs import unpadded_input
from proponent.signature import Column, ColumnType, InputKind, InputSignature

GRAINS = (1, 2, 4, 8)
"""Sizes of the squares of the made-up images and tensors."""
LARGEST = 1024
"""Longest side of a made-up image."""
_CHANNELS = {"L": 1, "RGB": 3}
_TEXTS = (
    "It is neither as good nor as bad as they say.",
    "An old story, told once more, and told well: nobody left before the end!",
    "terrible",
    "3 of 10 would come again; the others (7) would not ...",
    "Grüße aus Zürich - 東京 - naïve café",
)


def ranges_of(inputs: Inputs) -> dict[str, Any]:
    """Of some training inputs what made-up ones keep to.

    Returns:
        ``low`` and ``high``: of one tensor the range along its first axis, in lists; of several, the range of each by
        name, and ``sizes``: the shape of each in the first example.
    """
    if isinstance(inputs, Tensor):
        numbers = inputs.float() if inputs.dtype == torch.bool else inputs
        rows = numbers.transpose(0, 1).flatten(1) if numbers.ndim > 1 else numbers[None]
        return {"low": rows.amin(dim=1).tolist(), "high": rows.amax(dim=1).tolist()}
    batches = [tensors_of(each) for each in (inputs.examples if isinstance(inputs, RaggedInputs) else [inputs])]
    first = tensors_of(next(iter(inputs)))
    return {
        "low": {name: min(_of(batches, name, Tensor.min), default=0.0) for name in first},
        "high": {name: max(_of(batches, name, Tensor.max), default=0.0) for name in first},
        "sizes": {name: list(tensor.shape) for name, tensor in first.items()},
    }


def _of(batches: Sequence[Mapping[str, Tensor]], name: str, extreme: Callable[[Tensor], Tensor]) -> list[float]:
    """An extreme of a tensor in each batch; those of no length have none."""
    return [float(extreme(batch[name])) for batch in batches if batch[name].numel()]


def made_up_inputs(signature: InputSignature, ranges: Mapping[str, Any]) -> list[Example]:
    """What the model may be called with, within the ranges that training inputs had."""
    if "sizes" not in ranges:
        bounds = [torch.tensor(ranges[s]).view(-1, *[1] * (len(signature.shape) - 1)) for s in ("low", "high")]
        noise = [_noise(signature.shape, grain) / 255 for grain in GRAINS]
        found = [(bounds[0] + part * (bounds[1] - bounds[0])).reshape(signature.shape) for part in noise]
        return [_of_dtype(each, signature.dtype) for each in found]
    examples = [
        {each.name: _in_range(ranges, each.name, each.dtype, grain) for each in signature.tensors} for grain in GRAINS
    ]
    return [NamedInputs(named) if signature.is_named else named[""] for named in examples]


def _in_range(ranges: Mapping[str, Any], name: str, dtype: str, grain: int) -> Tensor:
    low, high = ranges["low"][name], ranges["high"][name]
    return _of_dtype(low + _noise(ranges["sizes"][name], grain) / 255 * (high - low), dtype)


def _of_dtype(value: Tensor, dtype: str) -> Tensor:
    """Numbers of a kind; whole ones are rounded."""
    target = getattr(torch, dtype)
    return value if target == torch.float32 else (value if target.is_floating_point else value.round()).to(target)


def made_up_raws(signature: InputSignature) -> tuple[str, list[Any]]:
    """What the transform may be called with, and what it is: "images", "texts" or "records"."""
    if signature.kind is InputKind.TEXT:
        return "texts", list(_TEXTS)
    if signature.kind is InputKind.RECORD:
        return "records", [_record(signature.columns, number) for number in range(len(GRAINS))]
    return "images", [] if signature.kind is InputKind.TENSORS else list(_images(signature))


def made_up_unpadded(signature: InputSignature, transform: Any) -> list[Example]:
    """What the transform makes of made-up texts before they are padded, where it takes them."""
    found = list[Example]()
    for text in _TEXTS if signature.kind is InputKind.TEXT and signature.is_ragged else ():
        with suppress(Exception):  # they may mean nothing to the user's code
            found.append(unpadded_input(transform, text))
    return found


def _record(columns: Sequence[Column], number: int) -> dict[str, Any]:
    return {column.name: _value(column, _digest(f"{number}|{column.name}")) for column in columns}


def _value(column: Column, digest: bytes) -> Any:
    if column.type is ColumnType.CATEGORY and column.categories:
        return column.categories[int.from_bytes(digest[:4], "big") % len(column.categories)]
    if column.type is ColumnType.FLAG:
        return digest[0] % 2 == 0
    return digest.hex()[:4] if column.type in (ColumnType.TEXT, ColumnType.CATEGORY) else float(digest[0] % 100)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _images(signature: InputSignature) -> Iterator[Image.Image]:
    """Of the size of the training images, and a larger one for a transform that resizes."""
    if signature.mode not in _CHANNELS or not (signature.image_size or len(signature.shape) == 3):
        return
    size = signature.image_size or (signature.shape[2], signature.shape[1])
    width, height = (min(side, LARGEST) for side in size)
    for grain, scale in (*((grain, 1.0) for grain in GRAINS), (2, 1.5)):
        shape = (_CHANNELS[signature.mode], int(scale * height), int(scale * width))
        pixels = _noise(shape, grain).permute(1, 2, 0).to(torch.uint8).numpy()
        yield Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels)


def _noise(shape: Sequence[int], grain: int) -> Tensor:
    """Whole numbers 0..255 of a shape, equal in squares of the last two of three axes or more; the same for ever."""
    sides = [
        math.ceil(side / grain) if len(shape) > 2 and axis >= len(shape) - 2 else side
        for axis, side in enumerate(shape)
    ]
    stream = hashlib.shake_256(f"{grain}|{list(shape)}".encode()).digest(math.prod(sides))
    coarse = torch.from_numpy(np.frombuffer(stream, dtype=np.uint8).copy()).float().view(sides)
    if len(shape) > 2:
        coarse = coarse.repeat_interleave(grain, dim=-1).repeat_interleave(grain, dim=-2)
        coarse = coarse[..., : shape[-2], : shape[-1]]
    return coarse
