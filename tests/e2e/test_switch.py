"""Model and bundle switch together under load: no request fails, none is answered by a mixture or a bad bundle."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from footprint import assert_no_more, footprint
from inputs import MODEL
from load import Answers, Load, answers_of
from recording import Record
from running import RunningGateway

from proponent.errors import ProponentError, UnavailableError
from proponent.gateway.rollout.control_client import SOCKET, request
from proponent.index.bundle import SPEC, WEIGHTS, read_manifest, seal
from proponent.index.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]
LANES = 2


@pytest.fixture(scope="module")
def store(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two bundles of models trained on different data; the second one is current."""
    root = tmp_path_factory.mktemp("switch")
    shutil.copytree(digits / "store", root / "store", ignore=shutil.ignore_patterns(SOCKET))
    cli("train", "digits", "--out", str(root / "other"), "--limit", "700")
    cli("rebuild", str(root / "other"), "--store", str(root / "store"), "--quiet")
    return Store(root / "store")


@pytest.fixture(scope="module")
def gateway(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    gateway = RunningGateway(store.root, tmp_path_factory.mktemp("log") / "gateway.log")
    try:
        gateway.wait_ready()
        yield gateway
        gateway.stop()
        assert not (store.root / SOCKET).exists()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def expected(store: Store) -> Answers:
    pointer = store.pointer(MODEL)
    found = answers_of([store.bundles(MODEL) / pointer[name] for name in ("digest", "previous")])
    first, second = (answer.proponents[0][0] for answer in found.values())
    assert first[0] != second[0] or first[1] != pytest.approx(second[1], rel=0.05)
    return found


def cli(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "proponent.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def served(gateway: RunningGateway) -> str:
    return str(gateway.http.get(f"/v1/models/{MODEL}").json()["bundle_digest"])


def workers(gateway: RunningGateway) -> int:
    return len(gateway.workers())


def test_only_its_user_may_command_it(gateway: RunningGateway, store: Store) -> None:
    assert stat.S_IMODE((store.root / SOCKET).stat().st_mode) == 0o600
    status = request(store.root, {"command": "status"})
    assert status is not None and status["pid"] == gateway.process.pid
    assert status["models"] == {MODEL: {"digest": store.current(MODEL).name, "ready": True, "reason": ""}}
    for command in ({"command": "rollback", "model": "other"}, {"command": "drop"}, {"publish": "digits"}):
        with pytest.raises(ProponentError):
            request(store.root, command)


def test_switches_under_load(
    gateway: RunningGateway, store: Store, expected: Answers, pytestconfig: pytest.Config, record: Record
) -> None:
    before = footprint(gateway)
    load = Load(gateway.grpc_address, gateway.http_url, expected)
    seconds = []
    with load.running():
        for number in range(pytestconfig.getoption("switches")):
            wanted = store.pointer(MODEL)["previous"]
            seconds.append(_switch(store, number, wanted))
            assert served(gateway) == store.pointer(MODEL)["digest"] == wanted
    record("switches", count=len(seconds), answers=load.counts.total(), failed=len(load.wrong), seconds=seconds)
    assert not load.wrong, load.wrong[:5]
    assert load.counts.keys() == expected.keys() and min(load.counts.values()) > 50
    gateway.wait_for(lambda: workers(gateway) == LANES, 10)
    assert len(list(gateway.temporary.glob("*/models/*"))) == LANES
    assert_no_more(gateway, before, spare=load.in_flight)  # connections to the workers are kept


def _switch(store: Store, number: int, wanted: str) -> float:
    """By the command line first, then by the socket."""
    if number == 0:
        done = json.loads(cli("publish", wanted[:8], "--store", str(store.root), "--json"))
    elif number == 1:
        done = json.loads(cli("rollback", "--store", str(store.root), "--json"))
    elif number % 2:
        done = request(store.root, {"command": "rollback", "model": MODEL})
    else:
        done = request(store.root, {"command": "publish", "model": MODEL, "digest": wanted})
    assert done["after"] == wanted and done["before"] in os.listdir(store.bundles(MODEL))
    return float(done["seconds"])


def _copy(store: Store) -> Path:
    """A directory like the current bundle, not yet sealed."""
    directory = store.directory(MODEL) / "copy"
    shutil.copytree(store.current(MODEL), directory)
    return directory


def _sealed(store: Store, directory: Path, note: str) -> Path:
    manifest = replace(read_manifest(directory), created=f"2026-01-01T00:00:00+00:00 {note}")
    return seal(directory, manifest, store.bundles(MODEL))


def _corrupt(store: Store) -> Path:
    bundle = _sealed(store, _copy(store), "corrupt")
    rows = bytearray((bundle / "rows.faiss").read_bytes())
    rows[len(rows) // 2] ^= 0xFF
    (bundle / "rows.faiss").write_bytes(rows)
    return bundle


def _foreign_weights(store: Store) -> Path:
    """Whole by its checksums, but its weights are another model's."""
    directory = _copy(store)
    shutil.copyfile(store.bundles(MODEL) / store.pointer(MODEL)["previous"] / WEIGHTS, directory / WEIGHTS)
    return _sealed(store, directory, "foreign")


def _deadly(store: Store) -> Path:
    """Whole by its checksums, but whoever builds its model dies."""
    directory = _copy(store)
    values = yaml.safe_load((directory / SPEC).read_text())
    values["model"] = {"factory": "os:abort"}
    (directory / SPEC).write_text(yaml.safe_dump(values))
    return _sealed(store, directory, "deadly")


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (_corrupt, 4, "BUNDLE_CORRUPT"),
        (_foreign_weights, 4, "INDEX_MODEL_MISMATCH"),
        (_deadly, 2, "WORKER_DIED"),
    ],
)
def test_a_bad_bundle_never_replaces_a_good_one(
    gateway: RunningGateway, store: Store, expected: Answers, make: object, code: int, reason: str
) -> None:
    before = store.pointer(MODEL)
    bad = make(store)  # type: ignore[operator]
    load = Load(gateway.grpc_address, gateway.http_url, expected)
    with load.running():
        assert reason in cli("publish", bad.name, "--store", str(store.root), code=code)
    assert not load.wrong and set(load.counts) == {before["digest"]}
    assert store.pointer(MODEL) == before and served(gateway) == before["digest"]
    assert gateway.get("/readyz").status_code == 200  # type: ignore[union-attr]
    gateway.wait_for(lambda: workers(gateway) == LANES, 15)
    shutil.rmtree(bad)


def test_a_rebuild_is_served_at_once_and_survives_torchserve(
    gateway: RunningGateway, store: Store, digits: Path
) -> None:
    cli("rebuild", str(digits / "model"), "--store", str(store.root), "--quiet")
    current = store.current(MODEL).name
    assert served(gateway) == current
    gateway.part("ModelServer").kill()
    gateway.wait_for(lambda: gateway.get("/readyz").status_code == 503, 15)  # type: ignore[union-attr]
    gateway.wait_ready()
    assert served(gateway) == current
    request(store.root, {"command": "rollback", "model": MODEL})


def test_a_second_gateway_says_that_it_takes_no_commands(
    gateway: RunningGateway, store: Store, tmp_path: Path
) -> None:
    second = RunningGateway(store.root, tmp_path / "gateway.log")
    try:
        second.wait_for(lambda: "another gateway serves this store" in second.log.read_text(), 30)
        status = request(store.root, {"command": "status"})
        assert status is not None and status["pid"] == gateway.process.pid
        second.stop()
    finally:
        second.close()
    assert (store.root / SOCKET).exists()


@pytest.fixture(scope="module")
def killed(store: Store, expected: Answers, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of its own for gateways that are killed."""
    root = tmp_path_factory.mktemp("killed") / "store"
    shutil.copytree(store.root, root, ignore=shutil.ignore_patterns(SOCKET))
    return Store(root)


@pytest.mark.parametrize(
    ("point", "moved"),
    [
        ("switch.registered", False),
        ("current.written", False),
        ("current.replaced", True),
        ("switch.drained", True),
    ],
)
def test_a_gateway_killed_in_a_switch_leaves_a_whole_store(
    killed: Store, tmp_path: Path, point: str, moved: bool
) -> None:
    """Each start also shows that what the kill before left behind can be served."""
    before = killed.pointer(MODEL)
    gateway = RunningGateway(killed.root, tmp_path / "gateway.log", PROPONENT_FAULT=point)
    try:
        gateway.wait_ready()
        assert served(gateway) == before["digest"]
        family = gateway.descendants()
        with pytest.raises(UnavailableError) as caught:
            request(killed.root, {"command": "rollback", "model": MODEL})
        assert caught.value.reason == "GATEWAY_GONE"
        assert gateway.process.wait(timeout=30) == 137
        gateway.assert_nothing_left(family)
    finally:
        gateway.close()
    assert killed.current(MODEL).name == before["previous" if moved else "digest"]
    assert request(killed.root, {"command": "status"}) is None


def test_a_pointer_moved_without_a_gateway_is_taken_at_the_next_start(killed: Store, tmp_path: Path) -> None:
    wanted = killed.pointer(MODEL)["previous"]
    done = json.loads(cli("rollback", "--store", str(killed.root), "--json"))
    assert (done["after"], done["seconds"]) == (wanted, None)
    gateway = RunningGateway(killed.root, tmp_path / "gateway.log")
    try:
        gateway.wait_ready()
        assert served(gateway) == wanted
        gateway.stop()
    finally:
        gateway.close()
