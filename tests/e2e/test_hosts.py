"""What callers rely on does not depend on what hosts the workers: plain processes keep TorchServe's promises.

The tests of TorchServe are the others of this folder. With PROPONENT_WORKER_HOST=processes in the environment, those
that do not look at TorchServe itself run on plain processes too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from inputs import MODEL
from load import Load, answers_of
from running import RunningGateway
from test_switch import LANES
from test_worker_faults import EXPLAIN, OK, PREDICT, UNAVAILABLE, outcome

from proponent.gateway.rollout.control_client import SOCKET, request
from proponent.index.bundle import read_manifest, seal
from proponent.index.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def store(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two bundles that say the same; the first one is current."""
    root = tmp_path_factory.mktemp("hosts") / "store"
    shutil.copytree(digits / "store", root, ignore=shutil.ignore_patterns(SOCKET))
    store = Store(root)
    first = store.current(MODEL)
    shutil.copytree(first, store.directory(MODEL) / "copy")
    manifest = replace(read_manifest(first), created="2026-01-01T00:00:00+00:00")
    second = seal(store.directory(MODEL) / "copy", manifest, store.bundles(MODEL))
    store.point(MODEL, first.name, previous=second.name)
    return store


@pytest.fixture(scope="module")
def gateway(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    log = tmp_path_factory.mktemp("log") / "gateway.log"
    gateway = RunningGateway(store.root, log, "--worker-host", "processes")
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.close()


def test_it_predicts_explains_and_switches_under_load(gateway: RunningGateway, store: Store) -> None:
    assert not any("java" in process.name() for process in gateway.descendants())
    expected = answers_of([store.bundles(MODEL) / digest for digest in store.pointer(MODEL).values()])
    load = Load(gateway.grpc_address, gateway.http_url, expected)
    with load.running():
        for _ in range(2):
            request(store.root, {"command": "rollback", "model": MODEL})
    assert not load.wrong, load.wrong[:5]
    assert load.counts.keys() == expected.keys()
    gateway.wait_for(lambda: len(gateway.workers()) == LANES, 30)


def test_a_killed_worker_comes_back_and_predictions_go_on(gateway: RunningGateway) -> None:
    gateway.worker().kill()
    while (seen := outcome(gateway.rpc.Explain, EXPLAIN, 20)) is not OK:
        assert seen is UNAVAILABLE
        assert outcome(gateway.rpc.Predict, PREDICT, 20) is OK
    gateway.wait_ready()
    assert len(gateway.workers()) == LANES


def test_a_killed_gateway_leaves_nothing(gateway: RunningGateway) -> None:
    gateway.kill()
