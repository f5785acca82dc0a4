"""Forgetting while a service runs: at once out of its answers, and off the disk after compaction."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from inputs import GOOD, MODEL
from running import RunningGateway

from proponent.gateway.rollout.control_client import SOCKET
from proponent.index.catalog import Catalog
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def forget(store: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "proponent.cli", "forget", *arguments, "--store", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def proponents(stub: ExplanationServiceStub) -> tuple[list[str], str]:
    reply = stub.Explain(pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=3), timeout=60)
    return [influence.example_id for influence in reply.results[0].proponents], reply.bundle_digest


def test_a_forgotten_example_is_gone_from_answers_and_then_from_disk(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits / "store", tmp_path / "store", ignore=shutil.ignore_patterns(SOCKET))
    store = Store(tmp_path / "store")
    gateway = RunningGateway(store.root, tmp_path / "gateway.log", "--allow-examples")
    try:
        gateway.wait_ready()
        stub = ExplanationServiceStub(gateway.channel)
        before, digest = proponents(stub)
        forget(store.root, before[0])
        after, same = proponents(stub)
        assert same == digest
        assert before[0] not in after
        assert after[:2] == before[1:]
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetExample(pb.GetExampleRequest(model=MODEL, example_id=before[0]))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        receipt = forget(store.root, "--compact")
        compacted, new = proponents(stub)
        assert (compacted, new) == (after, receipt["bundles"][0]["after"])
        for bundle in store.bundles(MODEL).iterdir():
            if bundle.name not in receipt["still_on_disk"]:
                catalog = Catalog.open(bundle / "catalog.sqlite")
                assert catalog.get(before[0]) is None
                catalog.close()
        gateway.stop()
    finally:
        gateway.close()
