"""One input of a run: made of the run's seed and a number alone, so that any of them can be made again."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fuzz_messages import TENSOR, MessageMaker, Words, sound_requests
from inputs import GOOD

from broken_images import broken_image, mutated
from proponent.v1 import explanation_pb2 as pb

RPC, STREAM, RAW_HTTP = "rpc", "stream", "raw_http"
_STREAM = "proponent.v1.ExplanationService/StreamExplain"


@dataclass(frozen=True)
class FuzzInput:
    """What is sent.

    Attributes:
        seed: Of the run.
        number: Within the run.
        kind: ``rpc``, ``stream`` or ``raw_http``.
        method: Of gRPC, as ``service/method``.
        parts: Messages on the wire, or the bytes that a connection takes.
    """

    seed: int
    number: int
    kind: str
    method: str
    parts: Sequence[bytes]

    def record(self) -> dict[str, Any]:
        """As it is kept when something was found."""
        parts = [base64.b64encode(part).decode() for part in self.parts]
        return {"seed": self.seed, "number": self.number, "kind": self.kind, "method": self.method, "parts": parts}


def fuzz_input(seed: int, number: int, words: Words) -> FuzzInput:
    """The input of a number: half of them messages, a third images or texts, the rest bytes that are nearly HTTP."""
    random_ = random.Random(f"{seed}:{number}")
    share = random_.random()
    if share < 0.1:
        return FuzzInput(seed, number, RAW_HTTP, "", [_raw_http(random_, words)])
    if share < 0.4:
        return _given(seed, number, random_, words)
    return _message(seed, number, random_, MessageMaker(words, random_), words)


def _message(seed: int, number: int, random_: random.Random, maker: MessageMaker, words: Words) -> FuzzInput:
    requests = sound_requests(words)
    method = random_.choice(sorted(requests))
    parts = []
    for _ in range(random_.choice((1, 2, 4)) if method == _STREAM else 1):
        base = random_.choice(requests[method])
        if random_.random() < 0.5 and base.DESCRIPTOR.fields:
            made = type(base)()
            made.CopyFrom(base)
            for _ in range(random_.choice((0, 1, 1, 2, 3))):
                maker.changed(made)
        else:
            made = maker.message(base.DESCRIPTOR)
        parts.append(maker.bytes_of(made))
    return FuzzInput(seed, number, STREAM if method == _STREAM else RPC, method, parts)


def _given(seed: int, number: int, random_: random.Random, words: Words) -> FuzzInput:
    given = {"text": _text(random_)} if words.of_texts else {"encoded_image": broken_image(random_)}
    if random_.random() < 0.5:
        name, request = "Predict", pb.PredictRequest(model=words.model, **given).SerializeToString()
    else:
        name, request = "Explain", pb.ExplainRequest(model=words.model, top_k=1, **given).SerializeToString()
    return FuzzInput(seed, number, RPC, f"proponent.v1.ExplanationService/{name}", [request])


def _text(random_: random.Random) -> str:
    """Words, characters of all of Unicode but surrogates, or very many of them."""
    letter = chr(random_.choice((random_.randrange(1, 0xD800), random_.randrange(0xE000, 0x110000))))
    pieces = ["good", "film", " ", "\n", "\0", "\u202e", letter]
    length = 100_000 if random_.random() < 0.01 else random_.choice((0, 1, 3, 20, 20, 100))
    return "".join(random_.choice(pieces) + random_.choice((" ", " ", "")) for _ in range(length))


def _raw_http(random_: random.Random, words: Words) -> bytes:
    data = random_.choice(_written(words) if words.of_texts else _requests(words.model))
    for _ in range(random_.choice((0, 1, 1, 2, 4))):
        data = mutated(data, random_)
    return data


def _written(words: Words) -> Sequence[bytes]:
    """Requests with texts."""
    model = words.model
    tensors = {"input_ids": [2, 3, 9], "attention_mask": [1, 1, 1]}
    instances = {"instances": [{"text": "a good film", "top_k": 2}, {"tensors": tensors}]}
    query = {"query": {"text": "a good film"}, "example_ids": list(words.examples[:2])}
    inputs = [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a good film"]}]
    return [
        _post(f"/v1/models/{model}:explain", json.dumps(instances).encode(), "application/json"),
        _post(f"/v1/models/{model}:predict?top_k=2", b"a good film", "text/plain"),
        _post(f"/v1/models/{model}:highlightExamples", json.dumps(query).encode(), "application/json"),
        _post(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode(), "application/json"),
    ]


def _requests(model: str) -> Sequence[bytes]:
    image = base64.b64encode(GOOD).decode()
    instance = f'{{"instances": [{{"image": "{image}", "top_k": 2}}]}}'.encode()
    head = (
        b'{"inputs": [{"name": "tensor", "datatype": "FP32", "shape": [1, 1, 8, 8], '
        b'"parameters": {"binary_data_size": 256}}]}'
    )
    binary = f"Inference-Header-Content-Length: {len(head)}\r\n"
    form = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
        + GOOD
        + b"\r\n--b--\r\n"
    )
    return [
        _post(f"/v1/models/{model}:explain", instance, "application/json"),
        _post(f"/v1/models/{model}:predict", GOOD, "image/png"),
        _post(f"/v1/models/{model}:predict", form, "multipart/form-data; boundary=b"),
        _post(f"/v2/models/{model}/infer", head + TENSOR.data, "application/octet-stream", binary),
        f"GET /v1/models/{model}/examples?page_size=2&class_id=3 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    ]


def _post(path: str, body: bytes, content_type: str, headers: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
