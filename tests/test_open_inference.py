"""The Open Inference Protocol, REST and gRPC: true metadata, one answer by either, errors that say where and what."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import proponent
from gateway_fakes import SHAPE, echo, manifest
from listening import Listening, opened, run
from proponent.errors import UnavailableError
from proponent.gateway.open_inference.outputs import OUTPUTS
from proponent.gateway.open_inference.tensors import joined_elements, split_elements
from proponent.v1 import explanation_pb2 as pb
from proponent.v1 import open_inference_pb2 as oip
from proponent.v1.open_inference_pb2_grpc import GRPCInferenceServiceStub
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from tokens import knowing

DIGEST = "f" * 64
VALUES = np.arange(8, dtype="<f4").reshape(2, *SHAPE)
TENSOR = {"name": "tensor", "datatype": "FP32", "shape": [2, *SHAPE], "data": VALUES.ravel().tolist()}
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"png").decode()]}
INFER = "/v2/models/toy/infer"


def explaining(request: WorkerRequest) -> WorkerReply:
    """Lists as long as the first value of the tensor is large, whose examples tell their row."""
    if request.WhichOneof("call") == "predict":
        return echo(request)
    asked = request.explain
    length = 1 + int(np.frombuffer(asked.tensor.data, "<f4")[0]) // 4 if asked.HasField("tensor") else 1
    reply = echo(request)
    reply.explain.bundle_digest = DIGEST
    for measure in asked.measures or (1, 2, 3):
        found = reply.explain.results.add(measure=measure)
        for rank in range(length):
            found.proponents.add(
                example_id=f"toy/{rank}", score=2.5 - rank, label="c", class_id=2, self_influence=7.125
            )
            found.opponents.add(example_id=f"toy/{9 - rank}", score=-1.0)
    return reply


@dataclass
class Doors:
    """Both transports of one service."""

    listening: Listening
    http: httpx.AsyncClient
    rpc: Any

    async def infer(self, **body: Any) -> Any:
        return await self.http.post(INFER, json={"inputs": [TENSOR], **body})

    async def outputs(self, **body: Any) -> dict[str, Any]:
        reply = await self.infer(**body)
        assert reply.status_code == 200, reply.text
        return {output["name"]: output for output in reply.json()["outputs"]}

    @property
    def asked(self) -> list[Any]:
        return [getattr(each, each.WhichOneof("call")) for each, _ in self.listening.service.worker.asked]


def both(directory: Path, ask: Callable[[Doors], Awaitable[None]], **settings: Any) -> None:
    async def inside() -> None:
        async with opened(directory, **settings) as listening:
            listening.service.worker.handle = explaining
            async with listening.client() as http, grpc.aio.insecure_channel(listening.grpc_address) as channel:
                await ask(Doors(listening, http, GRPCInferenceServiceStub(channel)))

    asyncio.run(inside())


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, str, str]:
    """Code, reason, field and text of an error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(_Sync(caught.value)).details[0].Unpack(info)
    return caught.value.code(), info.reason, info.metadata["field"], caught.value.details() or ""


class _Sync:
    """An error of an asynchronous call, as grpc_status reads those of others."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.trailing_metadata = error.trailing_metadata
        self.code, self.details = error.code, error.details


def typed(**extra: Any) -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="tensor",
        datatype="FP32",
        shape=[2, *SHAPE],
        contents=oip.InferTensorContents(fp32_contents=VALUES.ravel().tolist()),
    )
    return oip.ModelInferRequest(**{"model_name": "toy", "inputs": [tensor], **extra})


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def test_live_ready_and_metadata_by_both(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        get = doors.http.get
        assert (await get("/v2/health/live")).json() == {"live": True}
        assert (await get("/v2/health/ready")).json() == {"live": True, "ready": True}
        server = await doors.rpc.ServerMetadata(oip.ServerMetadataRequest())
        assert (server.name, server.version) == ("proponent", proponent.__version__)
        assert "proponent.explanations" in server.extensions
        for path in ("/v2", "/v2/"):
            assert (await get(path)).json() == {
                "name": server.name,
                "version": server.version,
                "extensions": list(server.extensions),
            }
        assert (await doors.rpc.ServerLive(oip.ServerLiveRequest())).live
        assert (await doors.rpc.ServerReady(oip.ServerReadyRequest())).ready
        assert (await doors.rpc.ModelReady(oip.ModelReadyRequest(name="toy", version=DIGEST))).ready

    both(tmp_path, ask)


def test_metadata_of_a_model_is_true(tmp_path: Path) -> None:
    """What it names can be sent, and comes back, in the shapes and datatypes that it says."""

    async def ask(doors: Doors) -> None:
        described = (await doors.http.get("/v2/models/toy")).json()
        assert described == (await doors.http.get(f"/v2/models/toy/versions/{DIGEST}")).json()
        assert (described["name"], described["versions"]) == ("toy", [manifest().digest])
        typed_reply = await doors.rpc.ModelMetadata(oip.ModelMetadataRequest(name="toy"))
        assert [(t.name, t.datatype, list(t.shape)) for t in typed_reply.inputs] == [
            ("tensor", "FP32", [-1, *SHAPE]),
            ("image", "BYTES", [-1]),
        ]
        for given in (TENSOR, IMAGE):
            reply = (await doors.infer(inputs=[given])).json()
            assert (reply["model_name"], reply["model_version"]) == ("toy", DIGEST)
            batch = given["shape"][0]
            expected = [(o["name"], o["datatype"], [batch, *o["shape"][1:]]) for o in described["outputs"]]
            assert [(o["name"], o["datatype"], o["shape"]) for o in reply["outputs"]] == expected
            assert all(len(o["data"]) == np.prod(o["shape"]) for o in reply["outputs"])

    both(tmp_path, ask)


def test_a_version_is_the_digest_of_the_bundle(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        for version, status in ((DIGEST, 200), ("ffff", 200), ("fff", 404), ("0" * 64, 404)):
            path = f"/v2/models/toy/versions/{version}"
            assert (await doors.http.get(path)).status_code == status
            assert (await doors.http.get(f"{path}/ready")).status_code == status
            assert (await doors.http.post(f"{path}/infer", json={"inputs": [TENSOR]})).status_code == status
        code, reason, field, text = await refused(doors.rpc.ModelInfer(typed(model_version="1")))
        assert (code, reason, field) == (grpc.StatusCode.NOT_FOUND, "BUNDLE_UNKNOWN", "model_version")
        assert "'1'" in text and DIGEST in text

    both(tmp_path, ask)


def test_a_model_that_cannot_answer_is_not_ready(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        doors.listening.service.model.set_error(UnavailableError("it is starting", reason="WORKER_STARTING"))
        for path in ("/v2/health/ready", "/v2/models/toy/ready"):
            reply = await doors.http.get(path)
            assert (reply.status_code, reply.json()["error"]) == (503, "it is starting")
        assert (await doors.http.get("/v2/health/live")).status_code == 200
        assert not (await doors.rpc.ServerReady(oip.ServerReadyRequest())).ready
        assert not (await doors.rpc.ModelReady(oip.ModelReadyRequest(name="toy"))).ready
        reply = await doors.infer()
        assert (reply.status_code, reply.json()["error"]) == (503, "it is starting")
        assert reply.headers["retry-after"] and reply.headers["content-type"] == "application/json"
        assert (await refused(doors.rpc.ModelInfer(typed())))[:2] == (grpc.StatusCode.UNAVAILABLE, "WORKER_STARTING")

    both(tmp_path, ask)


def test_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        for path in ("/v2/models/tyo", "/v2/models/tyo/ready", "/v2/models/tyo/versions/ffff/ready"):
            reply = await doors.http.get(path)
            assert reply.status_code == 404 and "'tyo'" in reply.json()["error"]
        reply = await doors.http.post("/v2/models/tyo/infer", json={"inputs": [TENSOR]})
        assert reply.status_code == 404 and reply.json()["field"] == "model_name"
        assert (await refused(doors.rpc.ModelReady(oip.ModelReadyRequest(name="tyo"))))[
            0
        ] is grpc.StatusCode.NOT_FOUND
        assert (await doors.http.get("/v2/nothing")).json()["error"] == "no such path"

    both(tmp_path, ask)


def test_a_batch_is_one_call_for_each_row_and_one_answer_by_every_way(tmp_path: Path) -> None:
    """Typed and raw contents, flat and nested JSON, JSON with binary: the same rows reach the worker."""

    async def ask(doors: Doors) -> None:
        as_typed = await doors.rpc.ModelInfer(typed(id="mine"))
        raw = typed(raw_input_contents=[VALUES.tobytes()])
        raw.inputs[0].ClearField("contents")
        as_raw = await doors.rpc.ModelInfer(raw)
        nested = await doors.infer(inputs=[{**TENSOR, "data": VALUES.tolist()}], id="mine")
        binary = {key: value for key, value in TENSOR.items() if key != "data"}
        head = json.dumps({"inputs": [{**binary, "parameters": {"binary_data_size": VALUES.nbytes}}]}).encode()
        length = {"inference-header-content-length": str(len(head))}
        as_binary = await doors.http.post(INFER, content=head + VALUES.tobytes(), headers=length)
        assert {each.tensor.data for each in doors.asked[::2]} == {VALUES[0].tobytes()}
        assert {each.tensor.data for each in doors.asked[1::2]} == {VALUES[1].tobytes()}
        assert len(doors.asked) == 8 and all(list(each.tensor.shape) == list(SHAPE) for each in doors.asked)
        assert nested.json() == {**as_binary.json(), "id": "mine"}
        assert as_typed.id == "mine" and not as_typed.raw_output_contents
        data = {o["name"]: o["data"] for o in nested.json()["outputs"]}
        assert data == {"probabilities": [0.25, 0.5, 0.25] * 2, "class_id": [1, 1], "label": ["b", "b"]}
        contents = [output.contents for output in as_typed.outputs]
        assert list(contents[0].fp32_contents) == data["probabilities"] and list(contents[1].int_contents) == [1, 1]
        assert list(contents[2].bytes_contents) == [b"b", b"b"]
        probabilities, classes, labels = as_raw.raw_output_contents
        assert np.frombuffer(probabilities, "<f4").tolist() == data["probabilities"]
        assert struct.unpack("<2i", classes) == (1, 1) and split_elements(labels, "") == [b"b", b"b"]

    both(tmp_path, ask)


def test_images_are_elements_of_bytes(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        text = base64.b64encode(b"png").decode()
        for shape, data in (([1], [text]), ([1, 1], [text]), ([1, 1], [[text]])):
            assert (await doors.infer(inputs=[{**IMAGE, "shape": shape, "data": data}])).status_code == 200
        tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[2])
        raw = oip.ModelInferRequest(
            model_name="toy", inputs=[tensor], raw_input_contents=[joined_elements([b"png", b"other"])]
        )
        await doors.rpc.ModelInfer(raw)
        assert [each.encoded_image for each in doors.asked] == [b"png", b"png", b"png", b"png", b"other"]

    both(tmp_path, ask)


def test_outputs_come_in_binary_where_that_is_asked_for(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        mixed = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "class_id"}]
        for body, names in (
            ({"outputs": mixed}, ["label"]),
            ({"parameters": {"binary_data_output": True}}, ["probabilities", "class_id", "label"]),
        ):
            reply = await doors.infer(**body)
            length = int(reply.headers["inference-header-content-length"])
            outputs, place = json.loads(reply.content[:length])["outputs"], length
            assert [o["name"] for o in outputs if "parameters" in o] == names
            for output in outputs:
                if "parameters" in output:
                    end = place + output["parameters"]["binary_data_size"]
                    if output["name"] == "label":
                        assert split_elements(reply.content[place:end], "") == [b"b", b"b"]
                    place = end
            assert place == len(reply.content)

    both(tmp_path, ask)


def test_explanations_are_outputs_that_are_named(tmp_path: Path) -> None:
    """Rows of different length are filled up, and their counts say how long they are."""
    asked = ("proponents.influence.ids", "proponents.influence.scores", "proponents.influence.counts", "label")

    async def ask(doors: Doors) -> None:
        outputs = await doors.outputs(outputs=named(*asked), parameters={"top_k": 2})
        assert list(outputs) == list(asked)
        ids, scores, counts, labels = outputs.values()
        assert (ids["shape"], ids["data"]) == ([2, 2], ["toy/0", "", "toy/0", "toy/1"])
        assert (scores["datatype"], scores["data"]) == ("FP64", [2.5, 0.0, 2.5, 1.5])
        assert (counts["datatype"], counts["data"], labels["data"]) == ("INT32", [1, 2], ["b", "b"])
        assert all(each.top_k == 2 and list(each.measures) == [1] for each in doors.asked)
        request = typed(outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="opponents.l-relatif.ids")])
        reply = await doors.rpc.ModelInfer(request)
        assert list(reply.outputs[0].contents.bytes_contents) == [b"toy/9", b"", b"toy/9", b"toy/8"]

    both(tmp_path, ask)


def test_explain_as_a_parameter_adds_the_whole_explanation(tmp_path: Path) -> None:
    options = {"measures": "influence,l-relatif", "class_id": 2, "deny_class_ids": "0,1", "view": "id-only"}
    rest = json.dumps({"explain_if": {"confidence_below": 0.9}})

    async def ask(doors: Doors) -> None:
        outputs = await doors.outputs(parameters={"explain": True, **options, "options": rest})
        assert list(outputs) == ["probabilities", "class_id", "label", "explanation"]
        first, second = map(json.loads, outputs["explanation"]["data"])
        assert first["results"][0]["proponents"][0]["example_id"] == "toy/0" and first["bundle_digest"] == DIGEST
        assert len(second["results"][1]["opponents"]) == 2
        assert doors.asked[0] == pb.ExplainRequest(
            model="toy",
            tensor=pb.Tensor(shape=SHAPE, dtype="float32", data=VALUES[0].tobytes()),
            measures=[1, 3],
            target=pb.Target(class_id=2),
            filter=pb.Filter(deny_class_ids=[0, 1]),
            view=pb.VIEW_ID_ONLY,
            explain_if=pb.ExplainIf(confidence_below=0.9),
        )

    both(tmp_path, ask)


def test_every_output_that_can_be_named_is_answered(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        outputs = await doors.outputs(outputs=named(*OUTPUTS))
        assert list(outputs) == list(OUTPUTS)
        assert all(len(o["data"]) == np.prod(o["shape"]) and o["shape"][0] == 2 for o in outputs.values())
        assert outputs["proponents.theta-relatif.self_influences"]["data"] == [7.125, 0.0, 7.125, 7.125]

    both(tmp_path, ask)


def edited(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, **changes}]}


BAD = [
    ({"inputs": []}, "inputs", "INPUT_MISSING", "every input is missing, expected"),
    ({"inputs": [TENSOR, IMAGE]}, "inputs[1].name", "INPUT_UNKNOWN", "'image' goes with other inputs"),
    ({"inputs": [TENSOR, TENSOR]}, "inputs[1].name", "INPUT_TWICE", "'tensor' is there twice"),
    ({"inputs": "tensor"}, "inputs", "", "list of objects"),
    (edited(name="pixels"), "inputs[0].name", "INPUT_UNKNOWN", "'pixels'"),
    (edited(datatype="FP64"), "inputs[0].datatype", "TENSOR_WRONG_DTYPE", "'FP64', expected 'FP32'"),
    ({"inputs": [{**IMAGE, "datatype": "UINT8"}]}, "inputs[0].datatype", "TENSOR_WRONG_DTYPE", "expected 'BYTES'"),
    (edited(shape=[2, 1, 2, 3]), "inputs[0].shape", "TENSOR_WRONG_SHAPE", "expected [-1, 1, 2, 2]"),
    (edited(shape=[1, 2, 2]), "inputs[0].shape", "TENSOR_WRONG_SHAPE", "expected [-1, 1, 2, 2]"),
    (edited(shape=[0, *SHAPE], data=[]), "inputs[0].shape[0]", "TENSOR_WRONG_SHAPE", "a batch of 0"),
    (edited(shape=[-1, *SHAPE]), "inputs[0].shape[0]", "TENSOR_WRONG_SHAPE", "a batch of -1"),
    (edited(shape=[1 << 62, *SHAPE]), "inputs[0].shape[0]", "TENSOR_WRONG_SHAPE", "expected 1 to"),
    (edited(shape=[1 << 64, *SHAPE]), "inputs[0].shape", "TENSOR_WRONG_SHAPE", "expected a list of integers"),
    (edited(shape=None), "inputs[0].shape", "TENSOR_WRONG_SHAPE", "expected a list of integers"),
    (edited(data=[1.0] * 7), "inputs[0]", "TENSOR_WRONG_SHAPE", "28 bytes, but the shape asks for 32"),
    (edited(data=[[1.0], [1.0, 2.0]]), "inputs[0].data", "TENSOR_WRONG_SHAPE", "different lengths"),
    (edited(data=["1"] * 8), "inputs[0].data", "TENSOR_WRONG_DTYPE", "not numbers"),
    (edited(data=None), "inputs[0].data", "", "missing"),
    (edited(data=[*[0.0] * 7, 1e300]), "inputs[0][1]", "TENSOR_NOT_FINITE", "row 1"),
    (edited(parameters={"binary_data_size": 32}), "inputs[0].data", "", "beside binary_data_size"),
    (edited(parameters={"binary_data_size": -1}), "inputs[0].parameters.binary_data_size", "", ">= 0"),
    (edited(parameters={"shared_memory_region": "r"}), "inputs[0].parameters.shared_memory_region", "", "supported"),
    (edited(parameters={"x": [1]}), "inputs[0].parameters.x", "", "expected text"),
    ({"inputs": [{**IMAGE, "data": ["***"]}]}, "inputs[0].data[0]", "", "base64"),
    ({"inputs": [{**IMAGE, "data": [""]}]}, "inputs[0][0]", "", "encoded_image"),
    ({"inputs": [{**IMAGE, "shape": [2]}]}, "inputs[0]", "TENSOR_WRONG_SHAPE", "1 elements, but"),
    ({"outputs": [{"name": "logits"}]}, "outputs[0].name", "OUTPUT_UNKNOWN", "'logits'"),
    (
        {"outputs": [{"name": "label", "parameters": {"classification": 2}}]},
        "outputs[0].parameters.classification",
        "",
        "",
    ),
    ({"parameters": {"explain": "yes"}}, "parameters.explain", "", "true or false"),
    ({"parameters": {"top_k": 3}}, "parameters.top_k", "", "top_k"),
    ({"parameters": {"explain": True, "top_k": 0}}, "parameters.top_k", "TOP_K_INVALID", "value 0"),
    ({"parameters": {"explain": True, "topk": 3}}, "parameters.topk", "", "topk"),
    ({"parameters": {"explain": True, "class_id": 3}}, "parameters.target.class_id", "CLASS_UNKNOWN", "0 to 2"),
    ({"parameters": {"explain": True, "measures": "cosine"}}, "parameters.measures[0]", "MEASURE_UNKNOWN", "cosine"),
    ({"parameters": {"timeout": -1}}, "parameters.timeout", "", "microseconds"),
    ({"parameters": {"image": "aGk="}}, "parameters", "", "hold an input"),
    ({"parameters": ["explain"]}, "parameters", "", "not an object"),
    ({"id": 7}, "id", "", "expected text"),
    ({"id": "\ud800"}, "id", "", "surrogate"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[1]} {case[3]}")
def test_what_is_wrong_is_named(tmp_path: Path, case: tuple[dict[str, Any], str, str, str]) -> None:
    body, field, reason, part = case

    async def ask(doors: Doors) -> None:
        content = json.dumps({"inputs": [TENSOR], **body})
        reply = await doors.http.post(INFER, content=content, headers={"content-type": "application/json"})
        answer = reply.json()
        assert (reply.status_code, answer["field"]) == (400, field), answer
        assert answer["reason"] == (reason or "INVALID_INPUT") and part in answer["error"]
        assert (await doors.infer()).status_code == 200

    both(tmp_path, ask)


def test_binary_data_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tensor = {key: value for key, value in TENSOR.items() if key != "data"}

    async def ask(doors: Doors) -> None:
        async def send(size: Any, data: bytes, length: str | None = None) -> dict[str, Any]:
            head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}).encode()
            headers = {"inference-header-content-length": str(len(head)) if length is None else length}
            reply = await doors.http.post(INFER, content=head + data, headers=headers)
            assert reply.status_code == 400
            return dict(reply.json())

        whole = VALUES.tobytes()
        assert "sum to 30" in (await send(30, whole))["error"]
        assert (await send(32, whole[:-1]))["field"] == "body"
        assert "28 bytes, but the shape asks for 32" in (await send(28, whole[:28]))["error"]
        for length in ("-1", "many", "99999", "1" * 30):
            assert (await send(32, whole, length))["field"] == "inference-header-content-length"
        assert (await send(32, whole, "3"))["reason"] == "JSON_INVALID"

    both(tmp_path, ask)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"raw_input_contents": [b"", b""]}, "raw_input_contents"),
        ({"raw_input_contents": [VALUES.tobytes()]}, "inputs[0].contents"),
        ({"parameters": {"top_k": oip.InferParameter()}}, "parameters.top_k"),
    ],
)
def test_typed_messages_that_contradict_themselves(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    async def ask(doors: Doors) -> None:
        code, _, found, _ = await refused(doors.rpc.ModelInfer(typed(**change)))
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        request = typed()
        request.inputs[0].contents.int_contents.append(1)
        code, reason, found, text = await refused(doors.rpc.ModelInfer(request))
        assert (found, reason) == ("inputs[0].contents", "TENSOR_WRONG_DTYPE") and "int_contents" in text

    both(tmp_path, ask)


@pytest.mark.parametrize("data", [b"\x05", b"\xff\xff\xff\xffpng", struct.pack("<I", 4) + b"png"])
def test_elements_that_end_after_the_data_are_refused(tmp_path: Path, data: bytes) -> None:
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])

    async def ask(doors: Doors) -> None:
        request = oip.ModelInferRequest(model_name="toy", inputs=[tensor], raw_input_contents=[data])
        code, _, field, text = await refused(doors.rpc.ModelInfer(request))
        assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "inputs[0]") and "element 0 ends after" in text

    both(tmp_path, ask)


def auth(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_scopes_and_levels_hold_here_too(tmp_path: Path) -> None:
    """Health needs no token, predictions and explanations their scopes, and no output tells more than the level."""
    tokens = {
        "p": "predict",
        "labels": "predict,explain level=labels",
        "rounded": "predict,explain level=rounded",
    }

    async def ask(doors: Doors) -> None:
        async def status(token: str, *outputs: str) -> tuple[int, str]:
            body = {"inputs": [TENSOR], "outputs": named(*outputs)}
            reply = await doors.http.post(INFER, json=body, headers=auth(token))
            return reply.status_code, reply.json().get("reason", "")

        assert (await doors.http.get("/v2/health/ready")).status_code == 200
        assert (await doors.rpc.ServerReady(oip.ServerReadyRequest())).ready
        assert (await doors.http.get("/v2/models/toy")).status_code == 401
        assert (await refused(doors.rpc.ModelInfer(typed())))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert await status("p", "label") == (200, "")
        assert await status("p", "explanation") == (403, "PERMISSION_DENIED")
        assert await status("labels", "proponents.influence.labels") == (200, "")
        assert await status("labels", "proponents.influence.ids") == (403, "DISCLOSURE_LEVEL")
        assert await status("rounded", "proponents.influence.scores") == (200, "")
        assert await status("rounded", "proponents.l-relatif.scores") == (403, "DISCLOSURE_LEVEL")
        assert await status("rounded", "proponents.influence.self_influences") == (403, "DISCLOSURE_LEVEL")
        body = {"inputs": [TENSOR], "parameters": {"explain": True}}
        reply = await doors.http.post(INFER, json=body, headers=auth("labels"))
        whole = json.loads(reply.json()["outputs"][-1]["data"][0])
        assert whole["disclosure_level"] == "DISCLOSURE_LEVEL_LABELS"
        assert whole["results"][0]["proponents"][0]["example_id"] == ""

    both(tmp_path, ask, authenticator=knowing(tmp_path / "tokens", tokens))


def test_explanations_are_counted_logged_and_bounded_as_the_services_own(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"

    async def ask(doors: Doors) -> None:
        ids = named("proponents.influence.ids")
        headers = {**auth("two"), "x-request-id": "mine-1"}
        reply = await doors.http.post(INFER, json={"inputs": [TENSOR], "outputs": ids}, headers=headers)
        assert reply.status_code == 200 and reply.headers["x-request-id"] == "mine-1"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["method"] for line in lines] == ["Explain"] * 2
        assert {line["request_id"] for line in lines} == {"mine-1"} and "toy/1" in lines[1]["examples"]
        reply = await doors.http.post(INFER, json={"inputs": [TENSOR], "outputs": ids}, headers=headers)
        assert (reply.status_code, reply.json()["reason"]) == (429, "EXPLANATIONS_SPENT")
        assert reply.headers["retry-after"]

    tokens = {"two": "predict,explain explanations=2"}
    both(tmp_path, ask, authenticator=knowing(tmp_path / "tokens", tokens), audit_log=log)


def test_a_deadline_reaches_the_worker(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        await doors.infer(parameters={"timeout": 2_000_000})
        await doors.rpc.ModelInfer(typed(), timeout=3)
        spans = [timeout_s for _, timeout_s in doors.listening.service.worker.asked]
        assert len(spans) == 4 and all(1 < span <= 2 for span in spans[:2])
        assert all(2 < span < 3.1 for span in spans[2:]), "gRPC rounds what is left of a deadline up"

    both(tmp_path, ask)


def test_bodies_and_batches_are_bounded(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        many = np.zeros((5, *SHAPE), "<f4")
        reply = await doors.infer(inputs=[{**TENSOR, "shape": [5, *SHAPE], "data": many.ravel().tolist()}])
        assert reply.status_code == 400 and "a batch of 5, expected 1 to 4" in reply.json()["error"]
        reply = await doors.infer(id="x" * 5000)
        assert reply.status_code == 413 and reply.json()["error"]
        reply = await doors.infer(outputs=named("proponents.influence.ids"), parameters={"top_k": 30})
        assert (reply.status_code, reply.json()["reason"]) == (400, "REPLY_TOO_LARGE")

    both(tmp_path, ask, max_instances=4, max_body_bytes=4096, max_influences=100)


def test_metrics_name_the_calls(tmp_path: Path) -> None:
    async def ask(doors: Doors) -> None:
        await doors.rpc.ModelInfer(typed())
        text = doors.listening.service.metrics.exposition()[0].decode()
        assert 'rpc_method="inference.GRPCInferenceService/ModelInfer"' in text

    both(tmp_path, ask)


def kserve_instances() -> Iterator[tuple[Any, bytes]]:
    text = base64.b64encode(b"png").decode()
    yield VALUES[0].tolist(), VALUES[0].tobytes()
    yield {"image": {"b64": text}}, b"png"
    yield {"b64": text}, b"png"


def test_kserves_first_protocol(tmp_path: Path) -> None:
    """Names of models, readiness, predictions, explanations and errors in the shape that its clients know."""

    async def ask(listening: Listening) -> None:
        listening.service.worker.handle = explaining
        async with listening.client() as http:
            assert (await http.get("/v1/models")).json()["models"] == ["toy"]
            model = (await http.get("/v1/models/toy")).json()
            assert (model["name"], model["ready"]) == ("toy", True)
            for instance, sent in kserve_instances():
                reply = (await http.post("/v1/models/toy:predict", json={"instances": [instance]})).json()
                assert [p["label"] for p in reply["predictions"]] == ["b"]
                asked = listening.service.worker.asked[-1][0].predict
                assert sent == (asked.encoded_image or asked.tensor.data)
            instances: Sequence[Any] = [VALUES[0].tolist(), VALUES[1].tolist()]
            reply = (await http.post("/v1/models/toy:explain", json={"instances": instances})).json()
            assert len(reply["predictions"]) == len(reply["explanations"]) == 2
            for path, body, status in (
                ("/v1/models/tyo:predict", {"instances": [[1.0]]}, 404),
                ("/v1/models/toy:predict", {"instances": [[1.0]]}, 400),
                ("/v1/models/toy:predict", {}, 400),
            ):
                answer = await http.post(path, json=body)
                assert (answer.status_code, answer.json()["error"]) == (status, answer.json()["detail"])

    run(tmp_path, ask)
