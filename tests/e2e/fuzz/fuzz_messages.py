"""Messages of any kind by their descriptors: sound ones, ones at the edges of what fits, and garbage."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from inputs import GOOD, MODEL, PIXELS, tensor

from broken_images import broken_image, mutated
from proponent.gateway.open_inference.outputs import OUTPUTS
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import open_inference_pb2 as oip

TENSOR = tensor(PIXELS[None] / 255)
IDS = pb.Tensor(shape=[3], dtype="int64", data=struct.pack("<3q", 2, 3, 9))
ONES = pb.Tensor(shape=[3], dtype="int64", data=struct.pack("<3q", 1, 1, 1))
NAMED = pb.NamedTensors(tensors={"input_ids": IDS, "attention_mask": ONES})
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_NUMBERS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e-310, 1e38, 1e308, math.inf, -math.inf, math.nan)
_TEXTS = (
    "",
    "a",
    "x" * 129,
    "x" * 5000,
    "\0",
    "\n\x1b[2J",
    "../../etc/passwd",
    "%00",
    "é\u202e\U0001f600",
    "0",
    "-1",
    "{}",
)
_PARAMETERS = (
    "explain",
    "top_k",
    "measures",
    "class_id",
    "view",
    "options",
    "timeout",
    "deny_class_ids",
    "exclude_example_ids",
    "deadline_policy",
)
_DEEPEST = 5
_MOST = 40
"""Elements of a list, now and then."""


@dataclass(frozen=True)
class Words:
    """What a service knows: texts without which a call gets no further than the first check.

    Attributes:
        examples: Ids of training examples.
        samples: Ids of held-out inputs.
        bundles: Digests.
        tokens: Of pages.
        model: Its name.
        inputs: What it takes, as fields of a request; each kind once.
    """

    examples: Sequence[str] = ("digits-0001",)
    samples: Sequence[str] = ("digits-0002",)
    bundles: Sequence[str] = ("f" * 64,)
    tokens: Sequence[str] = ("token",)
    model: str = MODEL
    inputs: Sequence[Mapping[str, Any]] = ({"encoded_image": GOOD}, {"tensor": TENSOR})

    @property
    def of_texts(self) -> bool:
        """Whether the model takes texts."""
        return "text" in self.inputs[0]

    def of(self, field: str) -> Sequence[str]:
        """Texts that fit a field."""
        known: Mapping[str, Sequence[str]] = {
            "model": (self.model,),
            "model_name": (self.model,),
            "text": ("a good film", "dull " * 100, "film\0 \u202e"),
            "example_id": self.examples,
            "example_ids": self.examples,
            "exclude_example_ids": self.examples,
            "sample_id": self.samples,
            "page_token": self.tokens,
            "base": self.bundles,
            "other": self.bundles,
            "version": self.bundles,
            "model_version": ("", *self.bundles),
            "dtype": ("float32", "float64", "int64", "bool", "json"),
            "datatype": ("FP32", "BYTES", "INT64"),
            "name": (self.model, "tensor", "image", "text", *NAMED.tensors, *OUTPUTS),
            "string_param": ("influence", "thumbnail", "3", '{"filter": {}}'),
        }
        return known.get(field, ())


class MessageMaker:
    """Makes messages with a generator of random numbers."""

    def __init__(self, words: Words, random_: random.Random) -> None:
        self._words = words
        self._random = random_

    def message(self, descriptor: Descriptor, depth: int = 0) -> Any:
        """A message with some of its fields filled."""
        made: Any = GetMessageClass(descriptor)()
        share = self._random.choice((0.3, 0.6, 0.9))
        for field in descriptor.fields:
            if self._random.random() < share:
                self.fill(made, field, depth)
        return made

    def fill(self, message: Any, field: FieldDescriptor, depth: int = 0) -> None:
        """Gives a field another value."""
        if depth > _DEEPEST:
            return
        if field.is_repeated:
            self._fill_list(message, field, depth)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field))

    def changed(self, message: Any, depth: int = 0) -> None:
        """Changes one field, anywhere in a message."""
        field = self._random.choice(message.DESCRIPTOR.fields)
        below = field.message_type is not None and not field.is_repeated and message.HasField(field.name)
        if below and self._random.random() < 0.7:
            self.changed(getattr(message, field.name), depth + 1)
        elif self._random.random() < 0.2:
            message.ClearField(field.name)
        else:
            self.fill(message, field, depth)

    def bytes_of(self, message: Message) -> bytes:
        """A message on the wire; now and then no longer one."""
        data = message.SerializeToString()
        if self._random.random() < 0.2:
            for _ in range(self._random.choice((1, 1, 3, 10))):
                data = mutated(data, self._random)
        return data

    def _fill_list(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        message.ClearField(field.name)
        count = self._random.choice((1, 1, 1, 2, 3, _MOST if depth < 2 and self._random.random() < 0.2 else 1))
        entries = getattr(message, field.name)
        for _ in range(count):
            if field.message_type is None:
                entries.append(self._scalar(field))
            elif field.message_type.GetOptions().map_entry:
                key = self._random.choice((*_PARAMETERS, *_TEXTS, *NAMED.tensors))
                value: Any = field.message_type.fields_by_name["value"].message_type
                entries[key].CopyFrom(self.message(value, depth + 1))
            else:
                entries.add().CopyFrom(self.message(field.message_type, depth + 1))

    def _scalar(self, field: FieldDescriptor) -> Any:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._bytes(field.name)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._text(field.name)
        if field.enum_type is not None:
            return self._random.choice((*(value.number for value in field.enum_type.values), 99, -1))
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        if field.cpp_type in _BITS:
            least, most = _BITS[field.cpp_type]
            value = self._random.choice((0, 1, 1, 2, 3, 8, 10, -1, 127, 1437, 1 << 31, least, most))
            return min(max(value, least), most)
        return self._random.choice(_NUMBERS)

    def _text(self, field: str) -> str:
        known = self._words.of(field)
        return self._random.choice(known if known and self._random.random() < 0.85 else _TEXTS)

    def _bytes(self, field: str) -> bytes:
        if field in ("encoded_image", "bytes_contents") or self._random.random() < 0.2:
            return GOOD if self._random.random() < 0.5 else broken_image(self._random)
        if self._random.random() < 0.6:
            return IDS.data if self._words.of_texts else TENSOR.data
        return struct.pack("<f", self._random.choice((0.0, math.nan, math.inf))) * self._random.choice((1, 64, 65))


def sound_requests(words: Words) -> Mapping[str, Sequence[Message]]:
    """Requests that are answered, by ``service/method``; each is where mutation begins."""
    model, example, sample, bundle = words.model, words.examples[0], words.samples[0], words.bundles[0]
    query = pb.ExplainRequest(model=model, top_k=3, **words.inputs[0])
    predictions = [pb.PredictRequest(model=model, **given) for given in words.inputs]
    own: dict[str, Sequence[Message]] = {
        "Predict": predictions,
        "Explain": [query, _rich_query(words)],
        "GetExample": [pb.GetExampleRequest(model=model, example_id=example)],
        "GetModel": [pb.GetModelRequest(model=model)],
        "ListModels": [pb.ListModelsRequest()],
        "ScoreExamples": [pb.ScoreExamplesRequest(query=query, example_ids=words.examples[:5])],
        "HighlightExamples": [pb.HighlightExamplesRequest(query=query, example_ids=words.examples[:5])],
        "EstimateRemoval": [pb.EstimateRemovalRequest(query=query, example_ids=words.examples[:5])],
        "FindFlipSet": [pb.FindFlipSetRequest(query=query, max_size=3)],
        "ListSuspects": [pb.ListSuspectsRequest(model=model, limit=3)],
        "ListSamples": [pb.ListSamplesRequest(model=model, page_size=3)],
        "GetSample": [pb.GetSampleRequest(model=model, sample_id=sample)],
        "ListExamples": [pb.ListExamplesRequest(model=model, class_ids=[0, 1], page_size=3)],
        "SummarizeExamples": [pb.SummarizeExamplesRequest(model=model, bins=10)],
        "ListFrequentExamples": [pb.ListFrequentExamplesRequest(model=model, limit=3)],
        "ListBundles": [pb.ListBundlesRequest(model=model)],
        "DiffBundles": [pb.DiffBundlesRequest(model=model, base=bundle, other=bundle)],
        "StreamExplain": [pb.StreamExplainRequest(request=query)],
    }
    others: dict[str, Sequence[Message]] = {
        "ServerLive": [oip.ServerLiveRequest()],
        "ServerReady": [oip.ServerReadyRequest()],
        "ServerMetadata": [oip.ServerMetadataRequest()],
        "ModelReady": [oip.ModelReadyRequest(name=model)],
        "ModelMetadata": [oip.ModelMetadataRequest(name=model, version=bundle)],
        "ModelInfer": [_infer(words, raw=True), _infer(words, raw=False)],
    }
    services = ((pb, "ExplanationService", own), (oip, "GRPCInferenceService", others))
    return {
        f"{module.DESCRIPTOR.services_by_name[service].full_name}/{name}": requests
        for module, service, methods in services
        for name, requests in methods.items()
    }


def _rich_query(words: Words) -> pb.ExplainRequest:
    return pb.ExplainRequest(
        model=words.model,
        **words.inputs[1],
        measures=[pb.MEASURE_INFLUENCE],
        top_k=2,
        target=pb.Target(contrast=pb.Contrast(for_class_id=0, against_class_id=1)),
        filter=pb.Filter(allow_class_ids=[0, 1], exclude_example_ids=[words.examples[0]]),
        diversity=pb.Diversity(redundancy=pb.REDUNDANCY_SUM, gamma=0.5, candidates=20),
        view=pb.VIEW_THUMBNAIL,
        explain_if=pb.ExplainIf(sampled_share=1.0),
    )


def _infer(words: Words, *, raw: bool) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=words.model)
    for name, datatype, one in _named_inputs(words):
        given = request.inputs.add(name=name, datatype=datatype, shape=[1, *one.shape])
        if raw:
            request.raw_input_contents.append(one.data)
        elif datatype == "INT64":
            given.contents.int64_contents.extend(struct.unpack(f"<{len(one.data) // 8}q", one.data))
        else:
            given.contents.fp32_contents.extend(struct.unpack(f"<{len(one.data) // 4}f", one.data))
    if raw:
        request.outputs.add(name="proponents.influence.ids")
        request.parameters["top_k"].int64_param = 2
    else:
        request.parameters["explain"].bool_param = True
    return request


def _named_inputs(words: Words) -> Sequence[tuple[str, str, pb.Tensor]]:
    if words.of_texts:
        return [(name, "INT64", one) for name, one in NAMED.tensors.items()]
    return [("tensor", "FP32", TENSOR)]
