"""Models come and go in a running gateway with real workers: what cannot start, what is copied in, what is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2
from inputs import GOOD, MODEL
from running import RunningGateway
from test_service import details
from test_switch import LANES, cli, workers
from test_worker_faults import health

from proponent.gateway.rollout.control_client import SOCKET
from proponent.index.bundle import SPEC, read_manifest, seal
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]
DEARLY = pb.Diversity(redundancy=pb.REDUNDANCY_FACILITY_LOCATION, gamma=1.0, candidates=1000, whole_dataset=True)


@pytest.fixture(scope="module")
def store(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The model of digits beside one whose code kills whoever builds it."""
    root = tmp_path_factory.mktemp("membership") / "store"
    shutil.copytree(digits / "store", root, ignore=shutil.ignore_patterns(SOCKET))
    put(Store(root), "deadly", factory="os:abort")
    return Store(root)


def put(store: Store, name: str, factory: str | None = None) -> None:
    """Copies the model of digits into its store under another name."""
    directory = store.directory(name) / "copy"
    shutil.copytree(store.current(MODEL), directory)
    if factory is not None:
        values = yaml.safe_load((directory / SPEC).read_text())
        (directory / SPEC).write_text(yaml.safe_dump({**values, "model": {"factory": factory}}))
    bundle = seal(directory, replace(read_manifest(directory), model=name), store.bundles(name))
    store.set_current(name, bundle.name)


@pytest.fixture(scope="module", params=["torchserve", "processes"])
def gateway(
    request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    log = tmp_path_factory.mktemp("log") / "gateway.log"
    options = ("--watch", "--model-setting", "other.prediction_workers=0", "--worker-host", request.param)
    gateway = RunningGateway(store.root, log, *options)
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


def listed(gateway: RunningGateway) -> dict[str, str]:
    """Each model with the reason why it is not ready, or nothing."""
    found = gateway.http.get("/v1/models").json()
    return {name: found["unavailable"].get(name, {"reason": ""})["reason"] for name in found["models"]}


def predicted(gateway: RunningGateway, name: str) -> int:
    reply = gateway.rpc.Predict(pb.PredictRequest(model=name, encoded_image=GOOD), timeout=30)
    return int(reply.prediction.class_id)


def test_a_model_that_kills_its_workers_keeps_no_other_from_serving(gateway: RunningGateway, store: Store) -> None:
    assert listed(gateway) == {MODEL: "", "deadly": "WORKER_STARTING"}
    assert predicted(gateway, MODEL) == 3
    described = gateway.rpc.GetModel(pb.GetModelRequest(model="deadly"), timeout=10)
    assert described.unavailable_reason == "WORKER_STARTING"
    assert "deadly" in described.unavailable_detail
    cli("unload", "deadly", "--store", str(store.root))
    gateway.wait_for(lambda: workers(gateway) == LANES, 30)
    assert listed(gateway) == {MODEL: ""}


def test_a_model_comes_to_the_store_and_leaves_it(gateway: RunningGateway, store: Store) -> None:
    """It has one worker, as its setting says; what it was asked before it left is answered."""
    put(store, "other")
    gateway.wait_for(lambda: listed(gateway).get("other") == "", 90)
    assert health(gateway, "proponent.v1.ExplanationService/other") == health_pb2.HealthCheckResponse.SERVING
    assert predicted(gateway, "other") == 3 and workers(gateway) == LANES + 1
    asked = pb.ExplainRequest(model="other", encoded_image=GOOD, top_k=100, diversity=DEARLY)
    call = gateway.rpc.Explain.future(asked, timeout=60)
    (store.directory("other") / "current").unlink()
    gateway.wait_for(lambda: "other" not in listed(gateway), 60)
    assert call.result().prediction.class_id == 3
    with pytest.raises(grpc.RpcError) as caught:
        predicted(gateway, "other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND and details(caught.value)[0] == "MODEL_UNKNOWN"
    with pytest.raises(grpc.RpcError) as caught:
        health(gateway, "proponent.v1.ExplanationService/other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    gateway.wait_for(lambda: workers(gateway) == LANES, 30)
    shutil.rmtree(store.directory("other"))
    gateway.wait_for(lambda: 'model="other"' not in gateway.http.get("/metrics").text, 10)


def test_commands_load_and_unload(gateway: RunningGateway, store: Store) -> None:
    where = ("--store", str(store.root))
    assert json.loads(cli("unload", MODEL, "--json", *where))["was_served"] is True
    assert MODEL not in listed(gateway)
    assert "was not served" in cli("unload", MODEL, *where)
    assert "no bundle for model" in cli("load", "unheard", *where, code=3)
    done = json.loads(cli("load", MODEL, "--json", *where))
    assert done["digest"] == store.current(MODEL).name and not done["was_served"]
    assert predicted(gateway, MODEL) == 3
    assert "was served already" in cli("load", MODEL, *where)
