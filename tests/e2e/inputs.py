"""Inputs for the served digits model, good and bad, as each transport takes them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from proponent.v1 import explanation_pb2 as pb

MODEL = "digits"
PIXELS = np.round(load_digits().images[3] * (255 / 16)).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


GOOD = png(PIXELS)


def tensor(values: np.ndarray, dtype: str = "float32") -> pb.Tensor:
    return pb.Tensor(shape=values.shape, dtype=dtype, data=values.astype("<f4").tobytes())


@dataclass(frozen=True)
class Bad:
    """One bad input: the typed request, the JSON instance that says the same, and how both are refused."""

    name: str
    rpc: dict[str, Any]
    json: dict[str, Any]
    reason: str
    field: str
    code: str = "INVALID_ARGUMENT"
    status: int = 400
    model: str = MODEL
    json_field: str = field(default="")

    def request(self) -> pb.ExplainRequest:
        return pb.ExplainRequest(**{"model": self.model, **self.rpc})

    def body(self) -> dict[str, Any]:
        return {"instances": [self.json]}


def _image(name: str, data: bytes, reason: str) -> Bad:
    encoded = {"image": {"b64": base64.b64encode(data).decode()}}
    return Bad(name, {"encoded_image": data}, encoded, reason, "encoded_image", json_field="instances[0].image")


def _tensor(name: str, values: np.ndarray, reason: str, part: str) -> Bad:
    return Bad(name, {"tensor": tensor(values)}, {"tensor": values.tolist()}, reason, f"tensor.{part}")


def _option(name: str, rpc: dict[str, Any], json: dict[str, Any], reason: str, at: str) -> Bad:
    image = base64.b64encode(GOOD).decode()
    return Bad(name, {"encoded_image": GOOD, **rpc}, {"image": image, **json}, reason, at)


_BLANK = np.zeros((1, 8, 8))
_CONTRAST = {"for_class_id": 3, "against_class_id": 3}

BAD_INPUTS = [
    _image("not an image", b"hello, this is text", "IMAGE_UNREADABLE"),
    _image("truncated", GOOD[: len(GOOD) // 2], "IMAGE_UNREADABLE"),
    _image("bomb", bomb(60000, 60000), "IMAGE_TOO_LARGE"),
    _image("large bomb below pillow's limit", bomb(12000, 12000), "IMAGE_TOO_LARGE"),
    _image("wrong channels", png(np.zeros((8, 8, 3), np.uint8)), "IMAGE_WRONG_CHANNELS"),
    _image("wrong size", png(np.zeros((9, 7), np.uint8)), "IMAGE_WRONG_SIZE"),
    _tensor("nan", np.where(np.eye(8)[None] > 0, np.nan, 0.0), "TENSOR_NOT_FINITE", "data"),
    _tensor("inf", np.full((1, 8, 8), np.inf), "TENSOR_NOT_FINITE", "data"),
    _tensor("wrong shape", np.zeros((8, 8)), "TENSOR_WRONG_SHAPE", "shape"),
    Bad(
        "wrong dtype",
        {"tensor": tensor(_BLANK, "float64")},
        {"tensor": {"shape": [1, 8, 8], "dtype": "float64", "data": base64.b64encode(bytes(512)).decode()}},
        "TENSOR_WRONG_DTYPE",
        "tensor.dtype",
    ),
    Bad(
        "short tensor",
        {"tensor": pb.Tensor(shape=[1, 8, 8], dtype="float32", data=b"\0" * 12)},
        {"tensor": {"shape": [1, 8, 8], "dtype": "float32", "data": base64.b64encode(bytes(12)).decode()}},
        "TENSOR_WRONG_SHAPE",
        "tensor.data",
    ),
    Bad("no input", {}, {"top_k": 1}, "INPUT_MISSING", "input"),
    Bad(
        "empty image",
        {"encoded_image": b""},
        {"image": ""},
        "INVALID_INPUT",
        "encoded_image",
        json_field="instances[0].image",
    ),
    _option("k zero", {"top_k": 0}, {"top_k": 0}, "TOP_K_INVALID", "top_k"),
    _option("k negative", {"top_k": -4}, {"topK": -4}, "TOP_K_INVALID", "top_k"),
    _option("unknown measure", {"measures": [9]}, {"measures": ["cosine"]}, "MEASURE_UNKNOWN", "measures[0]"),
    _option(
        "unknown class",
        {"target": pb.Target(class_id=10)},
        {"target": {"class_id": 10}},
        "CLASS_UNKNOWN",
        "target.class_id",
    ),
    _option(
        "one class twice",
        {"target": pb.Target(contrast=pb.Contrast(**_CONTRAST))},
        {"target": {"contrast": _CONTRAST}},
        "CONTRAST_SAME_CLASS",
        "target.contrast.against_class_id",
    ),
    _option(
        "unknown class in filter",
        {"filter": pb.Filter(deny_class_ids=[1, 77])},
        {"filter": {"deny_class_ids": [1, 77]}},
        "CLASS_UNKNOWN",
        "filter.deny_class_ids",
    ),
    Bad(
        "unknown model",
        {"encoded_image": GOOD},
        {"image": base64.b64encode(GOOD).decode()},
        "MODEL_UNKNOWN",
        "model",
        "NOT_FOUND",
        404,
        model="numerals",
        json_field="model",
    ),
]
