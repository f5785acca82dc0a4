"""A rebuild on a cluster of three nodes gives the bytes of one process, whatever happens to its workers meanwhile."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from torch import Tensor

import tiny
from proponent.errors import CurvatureError, UnavailableError
from proponent.index.bundle import read_manifest
from proponent.index.faults import TRACE
from proponent.index.store import Store
from proponent.rebuild import batching
from proponent.rebuild.context import Compute, LayerTask, RebuildContext
from proponent.rebuild.executors import executor_at
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from ray_cluster import CHUNK, KEEPING_NOTHING, Nodes, Rebuild, parent, until, watched
from test_rebuild import a_context

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'proponent[ray]'"
    ),
    pytest.mark.timeout(1200),  # of processes that start, on machines that have something else to do
]
EKFAC = {"model": "grouped", "curvature": {"kind": "ekfac", "embedding_size": 25}}
ENERGY = {"curvature": {"kind": "exact", "energy": 0.95}}


def at_s3(port: int) -> dict[str, str]:
    """How file systems of S3 find the server of a test, and are let in."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **keys}


@pytest.fixture(scope="module")
def s3_port() -> int:
    """Where a server of S3 would listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, s3_port: int) -> Iterator[Nodes]:
    """Two nodes with room for a worker each, and the head."""
    with Nodes(tmp_path_factory.mktemp("ray"), 2, **at_s3(s3_port)) as found:
        yield found


@pytest.fixture(autouse=True)
def _emptied(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.trace.write_text("")
    monkeypatch.setattr(batching, "CHUNK", CHUNK)
    while len(nodes.pids) < 2:
        nodes.add()


def check(path: Path, store: Path, nodes: Nodes, runs: int = 1) -> None:
    """The bundle is that of one process, each run read each chunk once, no other was saved twice, nothing is left."""
    saved = Counter(line for line in nodes.trace.read_text().split() if line.startswith("stage.saved:"))
    for stage, most in (("reading", runs), ("rows", 1)):
        found = [count for name, count in saved.items() if f":{stage}-" in name]
        assert len(found) == 5 and max(found) <= most
    assert not [name for name, n in saved.items() if n > 1 and ":reading-" not in name and ":model" not in name]
    alone = rebuild(load_spec(path), Store(path.parent / "alone"), RebuildOptions(quiet=True))
    found = Store(store).current("toy")
    assert read_manifest(found).files == read_manifest(alone).files
    assert sorted(each.name for each in found.parent.parent.iterdir()) == ["bundles", "current", "lock"]
    until(lambda: not nodes.workers())


@pytest.mark.parametrize("kind", [EKFAC, pytest.param(ENERGY, marks=pytest.mark.slow)], ids=["ekfac", "energy"])
def test_workers_write_the_bytes_of_one_process(tmp_path: Path, nodes: Nodes, kind: dict[str, object]) -> None:
    """Stages at a URL: nothing but the bundle comes to the store."""
    path, shards = watched(tmp_path / "project", **kind), tmp_path / "shards"
    running = Rebuild(path, tmp_path / "store", nodes, "--shards", shards.as_uri())
    code, said = running.ended()
    assert code == 0, said
    assert not list(shards.rglob("*.safetensors"))
    check(path, tmp_path / "store", nodes)


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("moto", "s3fs", "flask_cors"))), reason="there is no server of S3 to start"
)
def test_stages_may_lie_in_an_object_store(tmp_path: Path, nodes: Nodes, s3_port: int) -> None:
    """S3, by a server on the loopback: the same bytes, and an empty bucket afterwards."""
    server = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(s3_port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(server, **quiet)  # type: ignore[call-overload]
    try:
        bucket = f"http://127.0.0.1:{s3_port}/stages"
        until(lambda: is_made(bucket))
        path = watched(tmp_path / "project", **EKFAC)
        code, said = Rebuild(path, tmp_path / "store", nodes, "--shards", "s3://stages/toy").ended()
        assert code == 0, said
        check(path, tmp_path / "store", nodes)
        assert "<Key>" not in httpx.get(bucket).text
    finally:
        process.kill()
        process.wait()


def is_made(bucket: str) -> bool:
    """Whether there is a server, which then has made the bucket."""
    try:
        return httpx.put(bucket).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_an_audit_on_the_cluster_finds_what_one_process_finds(tmp_path: Path, nodes: Nodes) -> None:
    """Retrainings are the workers', byte by byte, and so are the figures made of them."""
    recipe = {"factory": "proponent.training:fit", "kwargs": {"epochs": 20, "lr": 0.1, "batch_size": 16}}
    path = watched(tmp_path / "project", training=recipe, expected_accuracy=0.3, curvature={"kind": "exact"})
    tiny.hold_out(path, 20)
    stores = [Store(tmp_path / name) for name in ("cluster", "alone")]
    rebuild(load_spec(path), stores[0], RebuildOptions(quiet=True))
    shutil.copytree(stores[0].root, stores[1].root)
    command = [sys.executable, "-m", "proponent.cli", "audit", "--queries", "5", "--lds", "4", "--json", "--quiet"]
    found = []
    for store, options in zip(stores, (["--ray", nodes.address], []), strict=True):
        line = [*command, "--store", str(store.root), *options]
        done = subprocess.run(line, capture_output=True, text=True, env=nodes.environment)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    kept = [sorted(store.root.rglob("*.safetensors")) for store in stores]
    names = [[each.relative_to(store.root) for each in of] for store, of in zip(stores, kept, strict=True)]
    assert names[0] == names[1] and any("audits" in each.parts for each in names[0])
    assert [each.read_bytes() for each in kept[0]] == [each.read_bytes() for each in kept[1]]
    until(lambda: not nodes.workers())


def test_a_worker_that_is_killed_costs_its_chunk_alone(tmp_path: Path, nodes: Nodes) -> None:
    """While the data are read, and later on."""
    path = watched(tmp_path / "project", **EKFAC)
    hold = path.parent / "hold-20"
    hold.touch()
    running = Rebuild(path, tmp_path / "store", nodes, "--workers", "2", SHARE=KEEPING_NOTHING)
    first = running.held(20)
    os.kill(first, signal.SIGKILL)
    hold.write_text("5")
    os.kill(running.held(20, besides=first), signal.SIGKILL)
    hold.unlink()
    code, said = running.ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


def test_a_node_that_is_removed_is_done_without(tmp_path: Path, nodes: Nodes) -> None:
    path = watched(tmp_path / "project", **EKFAC)
    hold = path.parent / "hold-20"
    hold.touch()
    running = Rebuild(path, tmp_path / "store", nodes)
    nodes.remove(parent(running.held(20)))
    hold.unlink()
    code, said = running.ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


@pytest.mark.slow
def test_a_worker_that_hangs_is_done_without(tmp_path: Path, nodes: Nodes) -> None:
    path = watched(tmp_path / "project", **EKFAC)
    hold = path.parent / "hold-20"
    hold.touch()
    running = Rebuild(path, tmp_path / "store", nodes, HANG_S="2", HANG_TIMES="2")
    hanging = running.held(20)
    os.kill(hanging, signal.SIGSTOP)
    hold.unlink()
    code, said = running.ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


@pytest.mark.slow
def test_a_worker_that_cannot_be_reached_gives_its_place_to_another(tmp_path: Path, nodes: Nodes) -> None:
    """It lives, as its connection alone was lost: both nodes are full until it is ended."""
    path = watched(tmp_path / "project", **EKFAC)
    twice = {"CoreWorkerService.grpc_client.PushTask": {"num_failures": 2, "req_failure_prob": 50}}
    lost = {"RAY_testing_rpc_failure": json.dumps(twice), "RAY_testing_rpc_failure_avoid_intra_node_failures": "0"}
    code, said = Rebuild(path, tmp_path / "store", nodes, PATIENCE_S="20", **lost).ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


def test_a_node_on_which_everything_fails_is_done_without(tmp_path: Path, nodes: Nodes) -> None:
    """Its worker is free at once, but what failed there is left to the other one."""
    path = watched(tmp_path / "project", **EKFAC)
    (path.parent / f"broken-{nodes.pids[0]}").touch()
    code, said = Rebuild(path, tmp_path / "store", nodes).ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


@pytest.mark.slow
def test_two_rebuilds_do_not_disturb_each_other_and_the_second_says_what_it_waits_for(
    tmp_path: Path, nodes: Nodes
) -> None:
    path, other = watched(tmp_path / "project", **EKFAC), watched(tmp_path / "other", **EKFAC)
    hold = path.parent / "hold-20"
    hold.touch()
    first = Rebuild(path, tmp_path / "store", nodes)
    first.held(20)
    aside = {TRACE: str(tmp_path / "trace"), "PATIENCE_S": "3"}
    code, said = Rebuild(other, tmp_path / "others", nodes, **aside).ended()
    said = " ".join(said.split())
    assert code != 0 and re.search(r"no worker of 1 CPUs has come up for 3 s .*2 CPUs.*of which 0 CPUs", said), said
    hold.unlink()
    code, said = first.ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


def test_a_store_that_workers_cannot_write_to_is_named(tmp_path: Path, nodes: Nodes) -> None:
    path = watched(tmp_path / "project", **EKFAC)
    (path.parent / "full-20").touch()
    code, said = Rebuild(path, tmp_path / "store", nodes).ended()
    expected = r"cannot write to .*/toy/work.*No space left.*chunk .*node 127\.0\.0\.1"
    assert code == 6 and re.search(expected, " ".join(said.split())), (code, said)


def test_a_node_that_comes_half_way_is_used(tmp_path: Path, nodes: Nodes) -> None:
    """The two that were there are held at the first chunks, and yet the last is computed."""
    path = watched(tmp_path / "project", **EKFAC)
    # Not example 0, which a worker reads when it starts.
    holds = [path.parent / f"hold-{position}" for position in (1, CHUNK + 1)]
    for hold in holds:
        hold.touch()
    running = Rebuild(path, tmp_path / "store", nodes)
    assert running.held(1) != running.held(CHUNK + 1)
    assert "reading" not in nodes.trace.read_text()
    come = nodes.add()
    until(lambda: "reading-00004" in nodes.trace.read_text())
    assert come in map(parent, nodes.workers())
    for hold in holds:
        hold.unlink()
    code, said = running.ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes)


def has_saved(nodes: Nodes, stage: str, chunks: int) -> bool:
    """Whether so many chunks of a stage have been saved by all runs."""
    return nodes.trace.read_text().count(f"saved:{stage}-") == chunks


def test_a_driver_that_is_killed_goes_on_where_it_was(tmp_path: Path, nodes: Nodes) -> None:
    """But for the data, which are read again: they may have changed."""
    path, besides = watched(tmp_path / "project", **EKFAC), 0
    hold = path.parent / "hold-20"
    for stage, chunks_read in (("reading", 0), ("survey", 9)):
        hold.write_text(str(chunks_read))
        killed = Rebuild(path, tmp_path / "store", nodes, SHARE=KEEPING_NOTHING)
        besides = killed.held(20, besides)
        until(partial(has_saved, nodes, stage, 4))  # all chunks but the one that is held
        killed.process.kill()
        killed.ended()
        until(lambda: not nodes.workers())
    hold.unlink()
    code, said = Rebuild(path, tmp_path / "store", nodes).ended()
    assert code == 0, said
    assert has_saved(nodes, "reading", 4 + 5 + 5)
    check(path, tmp_path / "store", nodes, runs=3)


def test_an_example_that_changes_after_it_was_read_is_named(tmp_path: Path, nodes: Nodes) -> None:
    path = watched(tmp_path / "project", **EKFAC)
    (path.parent / "change-20").write_text("5")
    code, said = Rebuild(path, tmp_path / "store", nodes, SHARE=KEEPING_NOTHING).ended()
    expected = r"example 20 \('toy/20'\) had another (input|id or label) when it was read again"
    assert code == 2 and re.search(expected, " ".join(said.split())), said


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (
            "fail",
            r"example 20 cannot be read .*RuntimeError: the disk is on fire .*example 'toy/20'.*chunk reading-00002",
        ),
        pytest.param("die", r"3 workers died of example 'toy/20' \(chunk reading-00002\)", marks=pytest.mark.slow),
    ],
)
def test_an_example_that_no_worker_gets_over_is_named(tmp_path: Path, nodes: Nodes, what: str, expected: str) -> None:
    """The rebuild fails, and leaves nothing of a reading that had no end."""
    path = watched(tmp_path / "project", **EKFAC)
    bad = path.parent / f"{what}-20"
    bad.touch()
    code, said = Rebuild(path, tmp_path / "store", nodes).ended()
    assert code == 2 and re.search(expected, " ".join(said.split())), said
    until(lambda: not nodes.workers())
    assert not (tmp_path / "store" / "toy" / "work").exists()
    bad.unlink()
    code, said = Rebuild(path, tmp_path / "store", nodes).ended()
    assert code == 0, said
    check(path, tmp_path / "store", nodes, runs=2)


@pytest.mark.slow
def test_workers_train_the_teachers_of_one_process(tmp_path: Path, nodes: Nodes) -> None:
    recipe = {"factory": "proponent.training:fit", "kwargs": {"epochs": 40, "lr": 0.1, "batch_size": 16}}
    curvature = {"kind": "ekfac", "embedding_size": 24, "teachers": 2, "pseudo_queries": 50}
    keys = {"training": recipe, "expected_accuracy": 0.5, "curvature": curvature}
    path, store = watched(tmp_path / "project", model="grouped", **keys), tmp_path / "store"
    code, said = Rebuild(path, store, nodes).ended()
    assert code == 0, said
    alone = rebuild(load_spec(path), Store(path.parent / "alone"), RebuildOptions(quiet=True))
    assert read_manifest(Store(store).current("toy")).files == read_manifest(alone).files
    trained = [sorted(each.glob("toy/teachers/*/*.safetensors")) for each in (store, path.parent / "alone")]
    assert [file.read_bytes() for file in trained[0]] == [file.read_bytes() for file in trained[1]] and trained[0]


def test_a_retraining_that_fails_on_the_cluster_says_why(tmp_path: Path, nodes: Nodes) -> None:
    """No process of this machine took its place."""
    recipe = {"factory": "proponent.training:fit", "kwargs": {"epochs": 1, "lr": 1e30}}
    curvature = {"kind": "ekfac", "damping": "auto"}
    path = watched(tmp_path / "project", model="grouped", training=recipe, expected_accuracy=0, curvature=curvature)
    (tiny.hold_out(path, 20).parent / "fail-20").touch()
    code, said = Rebuild(path, tmp_path / "store", nodes, "--subsets", "2").ended()
    assert code == 2 and re.search(r"the disk is on fire .*node 127\.0\.0\.1", " ".join(said.split())), said


class Failing(LayerTask):
    """Fails on the second layer."""

    def prepare(self, context: RebuildContext) -> Compute:
        def compute(numbers: Sequence[int]) -> Mapping[str, Tensor]:
            if 1 in numbers:
                raise CurvatureError("its covariance is not finite")
            return {}

        return compute


def test_a_layer_that_fails_is_named_and_no_example(tmp_path: Path) -> None:
    from proponent.rebuild.cluster.worker import computed

    context, task = a_context(tiny.project(tmp_path, model="grouped"), tmp_path / "work"), Failing()
    names = list(context.layers)
    assert computed(context, task, task.prepare(context), [0], locate=True) == {}
    with pytest.raises(CurvatureError, match=rf"not finite \(layer '{names[1]}'\)$"):
        computed(context, task, task.prepare(context), range(len(names)), locate=True)


def test_what_is_not_a_cluster_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"--ray has value '127\.0\.0\.1:9'"), executor_at("127.0.0.1:9"):
        raise AssertionError


@pytest.mark.slow
def test_a_scanner_of_rows_that_hangs_is_made_again(tmp_path: Path, nodes: Nodes) -> None:
    """What it was asked is refused after a while, and answered by the next one."""
    path = watched(tmp_path / "project", **ENERGY)
    bundle = rebuild(load_spec(path), Store(tmp_path / "store"), RebuildOptions(quiet=True))
    script = [sys.executable, str(Path(__file__).with_name("hanging_scanner.py")), nodes.address, str(bundle)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(script, env=nodes.environment, **pipes) as running:  # type: ignore[call-overload]
        assert running.stdout.readline() == "found\n"
        stopped = nodes.actors("Scanner")[0]
        os.kill(stopped, signal.SIGSTOP)
        said, _ = running.communicate("\n", timeout=120)
    assert said.split() == ["SHARD_LOST", "found"] and running.returncode == 0
    until(lambda: not nodes.actors("Scanner"))


def test_a_job_goes_to_who_has_its_gradients_while_there_are_others() -> None:
    from proponent.rebuild.cluster.executor import _taken

    homes, waiting = {"a": 1, "b": 2, "d": 2}, deque("abcd")
    taken = [_taken(waiting, homes.get, lambda worker: worker == 2) for _ in range(4)]
    assert taken == ["b", "d", "c", "a"] and not waiting


def test_workers_keep_gradients_where_their_node_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proponent.rebuild.cluster.site import Site

    context = a_context(watched(tmp_path / "project"), tmp_path / "work")
    site = Site.of(replace(context, batching=replace(context.batching, kept=1 << 30)), "cpu")
    assert site.open().gradients.has_room(1 << 20)
    monkeypatch.setattr("proponent.rebuild.cluster.site.machine_bytes", lambda: 1 << 60)
    assert not site.open().gradients.has_room(1)
