"""Triton's clients, unchanged, against the real service: what they get is what the own API says."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inputs import GOOD, MODEL
from running import RunningGateway
from sklearn.datasets import load_digits

from proponent.v1 import explanation_pb2 as pb

pytestmark = pytest.mark.e2e
TENSOR = (load_digits().images[[3, 8]] / 16).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def found(service: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "image.png").write_bytes(GOOD)
    np.save(folder / "tensor.npy", TENSOR)
    script = Path(__file__).with_name("triton_calls.py")
    addresses = service.grpc_address, service.http_url.removeprefix("http://")
    files = str(folder / "image.png"), str(folder / "tensor.npy")
    command = [sys.executable, str(script), *addresses, MODEL, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_tritons_clients_see_a_server_and_a_model(service: RunningGateway, found: dict[str, Any], door: str) -> None:
    seen, model = found[door], service.rpc.GetModel(pb.GetModelRequest(model=MODEL))
    assert (seen["live"], seen["ready"], seen["model_ready"], seen["unknown_ready"]) == (True, True, True, False)
    assert "proponent.explanations" in seen["server"]
    assert seen["model"]["versions"] == [model.bundle_digest]
    tensor, image = seen["model"]["inputs"]
    assert (tensor["datatype"], list(map(int, tensor["shape"]))) == ("FP32", [-1, *model.input_shape])
    assert (image["datatype"], list(map(int, image["shape"]))) == ("BYTES", [-1])
    shapes = {each["name"]: list(map(int, each["shape"])) for each in seen["model"]["outputs"]}
    assert shapes == {"probabilities": [-1, len(model.class_names)], "class_id": [-1], "label": [-1]}


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_tritons_clients_get_what_the_own_api_says(service: RunningGateway, found: dict[str, Any], door: str) -> None:
    seen = found[door]
    for row, given in enumerate(TENSOR):
        tensor = pb.Tensor(shape=given.shape, dtype="float32", data=given.tobytes())
        own = service.rpc.Explain(pb.ExplainRequest(model=MODEL, tensor=tensor, top_k=3, measures=[1]))
        explained = seen["explained"]
        assert explained["label"][0][row] == own.prediction.label
        assert explained["probabilities"][row] == pytest.approx(list(own.prediction.probabilities), abs=1e-5)
        influences = own.results[0].proponents
        assert explained["proponents.influence.ids"][row] == [each.example_id for each in influences]
        assert explained["proponents.influence.scores"][row] == pytest.approx([e.score for e in influences], rel=1e-3)
    assert seen["by_image"]["class_id"] == [[3]] and seen["id"] == "mine"
    status, message = seen["error"]
    assert status == ("StatusCode.INVALID_ARGUMENT" if door == "grpc" else "400")
    assert "shape is [2, 1, 7, 8], expected [-1, 1, 8, 8]" in message


def test_without_binary_data_and_beside_the_own_client(found: dict[str, Any]) -> None:
    assert found["aio"]["label"] == found["http"]["explained"]["label"]
    assert found["own"] == found["grpc"]["by_image"]["label"][0][0]


def test_kserves_first_protocol(service: RunningGateway) -> None:
    instances = [{"b64": base64.b64encode(GOOD).decode()}, TENSOR[1].tolist()]
    reply = service.http.post(f"/v1/models/{MODEL}:explain", json={"instances": instances}).json()
    assert [each["class_id"] for each in reply["predictions"]] == [3, 8]
    assert len(reply["explanations"]) == 2
    assert service.http.get("/v1/models").json()["models"] == [MODEL]
