"""Rows in shards on a cluster, behind the gateway and TorchServe: the same answers or none, and nothing is left."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import OK, ask, said
from inputs import GOOD, MODEL
from running import RunningGateway

from proponent.gateway.rollout.control_client import SOCKET, request
from proponent.index.bundle import ROWS, read_manifest, seal
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb
from ray_cluster import Nodes, parent, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'proponent[ray]'"
    ),
    pytest.mark.timeout(900),
]
SHARDS = 3
QUERY = pb.ExplainRequest(model=MODEL, encoded_image=GOOD, top_k=20)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes, each of which has room for two bundles' scanners."""
    with Nodes(tmp_path_factory.mktemp("ray"), 2, 2 * SHARDS) as found:
        yield found


@pytest.fixture(scope="module")
def store(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two bundles that say the same; the first one is current."""
    root = tmp_path_factory.mktemp("shards") / "store"
    shutil.copytree(digits / "store", root, ignore=shutil.ignore_patterns(SOCKET))
    store = Store(root)
    first = store.current(MODEL)
    shutil.copytree(first, store.directory(MODEL) / "copy")
    manifest = replace(read_manifest(first), created="2026-01-01T00:00:00+00:00")
    second = seal(store.directory(MODEL) / "copy", manifest, store.bundles(MODEL))
    store.point(MODEL, first.name, previous=second.name)
    return store


@pytest.fixture(scope="module")
def gateway(nodes: Nodes, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    log = tmp_path_factory.mktemp("log") / "gateway.log"
    flags = ("--allow-examples", "--allow-thumbnails", "--ray", nodes.address, "--row-shards", str(SHARDS))
    gateway = RunningGateway(store.root, log, *flags, **nodes.environment)
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.close()


def scanners(nodes: Nodes) -> list[int]:
    return nodes.actors("Scanner")


def plain(reply: Any) -> bytes:
    """A reply without what no two have in common."""
    for name in ("explanation_id", "request_id", "timings"):
        if name in reply.DESCRIPTOR.fields_by_name:
            reply.ClearField(name)
    return bytes(reply.SerializeToString(deterministic=True))


def diverse(redundancy: int, whole: bool) -> pb.ExplainRequest:
    asked = pb.ExplainRequest()
    asked.CopyFrom(QUERY)
    asked.diversity.CopyFrom(pb.Diversity(redundancy=redundancy, gamma=1.0, candidates=40, whole_dataset=whole))
    return asked


def filtered(example_ids: list[str]) -> pb.ExplainRequest:
    asked = pb.ExplainRequest()
    asked.CopyFrom(QUERY)
    asked.filter.CopyFrom(pb.Filter(deny_class_ids=[8], exclude_example_ids=example_ids))
    return asked


def test_every_answer_is_that_of_a_service_without_shards(
    gateway: RunningGateway, service: RunningGateway, nodes: Nodes
) -> None:
    """Byte by byte; the process that explains maps no row."""
    assert len(scanners(nodes)) == SHARDS
    result = service.rpc.Explain(QUERY, timeout=60).results[0]
    ids = [each.example_id for each in (*result.proponents[:3], *result.opponents[:2])]
    calls: list[tuple[str, Any]] = [("Explain", QUERY), ("Explain", filtered(ids))]
    calls += [("Explain", diverse(redundancy, whole)) for redundancy in (2, 3) for whole in (False, True)]
    calls.append(("ScoreExamples", pb.ScoreExamplesRequest(query=QUERY, example_ids=ids)))
    calls += [
        ("EstimateRemoval", pb.EstimateRemovalRequest(query=QUERY, example_ids=ids, estimator=estimator))
        for estimator in (1, 2, 3)
    ]
    calls.append(("FindFlipSet", pb.FindFlipSetRequest(query=QUERY)))
    for method, asked in calls:
        replies = [getattr(each.rpc, method)(asked, timeout=60) for each in (gateway, service)]
        assert plain(replies[0]) == plain(replies[1]), method
    mapped = [f"{pid.pid}" for pid in gateway.workers() if ROWS in Path(f"/proc/{pid.pid}/maps").read_text()]
    assert not mapped
    assert ROWS in Path(f"/proc/{service.worker().pid}/maps").read_text()


def comes_back(gateway: RunningGateway, before: bytes, seen: list[str]) -> bool:
    """Whether an explanation is given again; until then it is refused with a reason and when to come again."""
    call = gateway.rpc.Explain.future(QUERY, timeout=25)
    seen.append(said(call))
    assert ask(gateway, explains=False) == OK
    return seen[-1] == OK and plain(call.result()) == before


@pytest.mark.parametrize("lost", ["process", "node"])
def test_a_lost_shard_is_told_and_comes_back_by_itself(gateway: RunningGateway, nodes: Nodes, lost: str) -> None:
    before, seen = plain(gateway.rpc.Explain(QUERY, timeout=25)), list[str]()
    worker, there = gateway.worker().pid, set(scanners(nodes))
    if lost == "process":
        os.kill(min(there), signal.SIGKILL)
    else:
        nodes.remove(parent(min(there)))
    # The scanners of a node that has just gone may answer once more, and rightly so.
    until(lambda: comes_back(gateway, before, seen) and "SHARD_LOST" in seen)
    assert set(seen) == {OK, "SHARD_LOST"}, seen
    assert len(scanners(nodes)) == SHARDS and set(scanners(nodes)) != there
    assert gateway.worker().pid == worker
    gateway.wait_ready()


def test_a_switch_of_bundles_switches_all_shards_and_no_call_fails(
    gateway: RunningGateway, store: Store, nodes: Nodes
) -> None:
    """Publishing and rolling back are one switch; the old bundle's scanners go with its worker."""
    there, first = set(scanners(nodes)), store.current(MODEL).name
    with ThreadPoolExecutor(1) as beside:
        switched = beside.submit(request, store.root, {"command": "rollback", "model": MODEL})
        digests = set()
        while not switched.done():
            digests.add(gateway.rpc.Explain(QUERY, timeout=25).bundle_digest)
            time.sleep(0.2)
        switched.result()
    last = gateway.rpc.Explain(QUERY, timeout=25).bundle_digest
    assert last == store.current(MODEL).name != first and first in digests <= {first, last}
    until(lambda: len(scanners(nodes)) == SHARDS)
    assert not there & set(scanners(nodes))


def test_a_service_that_is_killed_leaves_nothing_on_the_cluster(gateway: RunningGateway, nodes: Nodes) -> None:
    assert len(scanners(nodes)) == SHARDS
    gateway.kill()
    until(lambda: not scanners(nodes))
