"""Publish, rollback, gc, diff and suspects: what they change, what they refuse, and their exit codes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stores
import tiny
from proponent.cli.bundles import _print_suspects
from proponent.errors import CorruptBundleError, InvalidInputError, NotFoundError
from proponent.explainer import Explainer
from proponent.index.bundle import CATALOG, ROWS
from proponent.index.catalog import Catalog
from proponent.index.lifecycle import collect, list_bundles, make_current, rollback
from proponent.index.lock import BundleLock, is_held
from proponent.index.store import Store
from proponent.inspection.diff import diff, rank_correlation
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.build(tmp_path_factory.mktemp("lifecycle"))


@pytest.fixture
def store(spec: Path, tmp_path: Path) -> Store:
    return stores.copy(spec.parents[1], tmp_path / "store")


def test_rollback_and_publish_move_only_the_pointer(store: Store) -> None:
    current, previous = stores.digests(store)
    dry = rollback(store, stores.MODEL, dry_run=True)
    assert (dry.before, dry.after, dry.dry_run) == (current, previous, True)
    assert stores.digests(store) == (current, previous)
    assert rollback(store, stores.MODEL).after == previous
    assert stores.digests(store) == (previous, current)
    assert rollback(store, stores.MODEL).after == current
    assert make_current(store, stores.MODEL, previous[:8]).before == current
    assert make_current(store, stores.MODEL, previous).before == previous
    assert stores.digests(store) == (previous, current)
    assert [path.name for path in list_bundles(store, stores.MODEL)] == sorted((current, previous))


def test_a_bad_bundle_is_never_published(store: Store) -> None:
    current, previous = stores.digests(store)
    (store.bundles(stores.MODEL) / previous / ROWS).write_bytes(b"")
    for change in (
        lambda: rollback(store, stores.MODEL),
        lambda: make_current(store, stores.MODEL, previous, dry_run=True),
        lambda: make_current(store, stores.MODEL, previous),
    ):
        with pytest.raises(CorruptBundleError, match=ROWS):
            change()
    assert stores.digests(store) == (current, previous)


def test_a_bundle_of_another_model_is_refused(store: Store) -> None:
    current, _ = stores.digests(store)
    shutil.copytree(store.directory(stores.MODEL), store.directory("other"))
    with pytest.raises(InvalidInputError, match="is of model 'toy', expected 'other'"):
        make_current(store, "other", current)


def test_what_does_not_exist_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="'beef' names 0 bundles"):
        make_current(store, stores.MODEL, "beef")
    with pytest.raises(NotFoundError, match=r"'' names 0 bundles of model 'toy', expected one of \w{12}, \w{12}"):
        make_current(store, stores.MODEL, "")
    store.point(stores.MODEL, stores.digests(store)[0])
    with pytest.raises(NotFoundError, match="no bundle to roll back to"):
        rollback(store, stores.MODEL)
    for change in (lambda: rollback(store, "tyop"), lambda: collect(store, "tyop")):
        with pytest.raises(NotFoundError, match="'tyop'"):
            change()
    assert not store.directory("tyop").exists()


def test_gc_keeps_what_is_needed(store: Store) -> None:
    """The current bundle, the one before, and any that a process reads; damaged ones go like others."""
    current, previous = stores.digests(store)
    store.point(stores.MODEL, current)
    (store.bundles(stores.MODEL) / previous / ROWS).write_bytes(b"")
    with_hold = BundleLock(store.bundles(stores.MODEL) / previous)
    assert collect(store, stores.MODEL).in_use == [previous]
    with_hold.release()
    dry = collect(store, stores.MODEL, dry_run=True)
    assert (dry.removed, dry.kept) == ([previous], [current])
    assert dry.bytes > 10_000
    assert len(list_bundles(store, stores.MODEL)) == 2
    assert collect(store, stores.MODEL).removed == [previous]
    assert [path.name for path in list_bundles(store, stores.MODEL)] == [current]
    assert collect(store, stores.MODEL).removed == []


def test_gc_drops_a_killed_rebuild_only_when_asked(store: Store) -> None:
    work = store.directory(stores.MODEL) / "work"
    work.mkdir()
    (work / "stage").write_text("x" * 100)
    assert not collect(store, stores.MODEL).workspace
    assert work.exists()
    found = collect(store, stores.MODEL, workspace=True)
    assert (found.workspace, found.bytes, work.exists()) == (True, 100, False)


def test_an_explainer_holds_its_bundle(store: Store) -> None:
    bundle = store.current(stores.MODEL)
    explainer = Explainer.load(bundle)
    assert is_held(bundle)
    del explainer
    assert not is_held(bundle)


def test_a_process_that_dies_holds_nothing(store: Store) -> None:
    bundle = store.current(stores.MODEL)
    code = f"from proponent.index.lock import *; import os; h = BundleLock(Path({str(bundle)!r})); os.abort()"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert not is_held(bundle)


def test_diff_of_a_bundle_with_itself_is_none(store: Store) -> None:
    bundle = store.current(stores.MODEL)
    found = diff(bundle, bundle, queries=20, top_k=5)
    assert (found.source, found.common_examples, found.overall.queries) == ("training", stores.COUNT, 20)
    assert found.overall.overlap == 1.0
    assert found.overall.rank_correlation == pytest.approx(1.0)
    assert sum(part.queries for part in found.per_class.values()) == 20


def test_diff_sees_changed_reasons(spec: Path, store: Store) -> None:
    """Another damping changes some reasons; other weights change most, and some predictions."""
    new, old = (store.bundles(stores.MODEL) / digest for digest in stores.digests(store))
    damped = diff(old, new, queries=stores.COUNT, top_k=5)
    assert 0.4 < damped.overall.overlap < 1.0
    assert 0.8 < damped.overall.rank_correlation < 1.0
    assert damped.overall.predictions_changed == 0
    other = tiny.project(spec.parents[1] / "other", count=stores.COUNT, iterations=3, expected_accuracy=0.0)
    with pytest.warns(UserWarning, match="gradient norm"):
        undertrained = rebuild(load_spec(other), store, RebuildOptions(quiet=True))
    changed = diff(old, undertrained, queries=stores.COUNT, top_k=5)
    assert changed.overall.overlap < damped.overall.overlap
    assert changed.overall.rank_correlation < damped.overall.rank_correlation


def test_diff_gates_a_release(store: Store) -> None:
    current, previous = stores.digests(store)
    arguments = ("diff", previous[:10], current[:10], "--queries", "10", "--json")
    passed = stores.run(*arguments, "--fail-below", "0.1", store=store)
    failed = stores.run(*arguments, "--fail-below", "1.0", store=store)
    assert (passed.returncode, failed.returncode) == (0, 7)
    assert json.loads(passed.stdout) == json.loads(failed.stdout)
    assert json.loads(passed.stdout)["old"] == previous


def test_rank_correlation() -> None:
    a = torch.tensor([3.0, 1.0, 2.0, 10.0])
    assert rank_correlation(a, a.exp()) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    constant = torch.zeros(4)
    assert (rank_correlation(constant, constant), rank_correlation(a, constant)) == (1.0, 0.0)


def test_suspects_are_ranked_by_self_influence(store: Store) -> None:
    with_catalog = Catalog.open(store.current(stores.MODEL) / CATALOG)
    first = with_catalog.label_suspects(100)
    ranked, total = first.suspects, first.total
    page = with_catalog.label_suspects(5, offset=3).suspects
    forgotten = {ranked[0].example_id, ranked[4].example_id, "unknown"}
    second = with_catalog.label_suspects(5, offset=1, forgotten=forgotten)
    rest, left = second.suspects, second.total
    with_catalog.close()
    assert (len(ranked), total, left) == (stores.COUNT, stores.COUNT, stores.COUNT - 2)
    influences = [suspect.self_influence for suspect in ranked]
    assert influences == sorted(influences, reverse=True)
    assert [s.label_score for s in ranked] == [place / stores.COUNT for place in range(stores.COUNT)]
    assert page == ranked[3:8]
    assert [s.example_id for s in rest] == [ranked[place].example_id for place in (2, 3, 5, 6, 7)]
    assert rest[0].label_score == 1 / 38
    for suspect in ranked:
        wrong = suspect.given_class_id != suspect.predicted_class_id
        assert suspect.is_label_issue == (wrong and suspect.label_score < 0.1)


def test_suspects_find_wrong_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of forty labels are changed before training: both are label issues and among the first."""
    pictures = tiny.pictures

    def mislabelled(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        pixels, labels = pictures(count, seed)
        labels[[5, 12]] = (labels[[5, 12]] + 1) % 3
        return pixels, labels

    monkeypatch.setattr(tiny, "pictures", mislabelled)
    path = tiny.project(tmp_path / "project", count=stores.COUNT, weight_decay=0.1)
    rebuild(load_spec(path), Store(tmp_path / "store"), RebuildOptions(quiet=True))
    found = stores.output("suspects", "--limit", "4", store=Store(tmp_path / "store"))
    issues = {row["example_id"] for row in found["suspects"] if row["is_label_issue"]}
    assert {"toy/5", "toy/12"} <= issues
    assert found["total"] == stores.COUNT


def test_suspects_as_csv(store: Store) -> None:
    done = stores.run("suspects", "--limit", "3", "--csv", store=store)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 3
    assert list(rows[0])[:3] == ["example_id", "is_label_issue", "label_score"]
    assert {row["given_label"] for row in rows} <= {"bars", "stripes", "frame"}


def test_texts_that_a_spreadsheet_would_compute_are_texts(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"example_id": "=1+1", "given_label": "@cat", "predicted_label": "a-b", "self_influence": -0.5}
    _print_suspects([row], as_csv=True)
    [read] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(read.values()) == ["'=1+1", "'@cat", "a-b", "-0.5"]


@pytest.mark.parametrize("command", ["verify", "diff", "publish", "rollback", "gc", "forget", "suspects"])
def test_help_shows_an_example_and_the_exit_codes(command: str, store: Store) -> None:
    text = " ".join(stores.run(command, "--help", store=store).stdout.split())
    assert f"proponent {command}" in text
    assert "Exit codes: 0 done" in text


def test_exit_codes_are_distinct(store: Store) -> None:
    current, previous = stores.digests(store)
    assert stores.output("rollback", "--dry-run", store=store)["after"] == previous
    assert stores.output("gc", "--dry-run", store=store)["removed"] == []
    assert stores.output("publish", current[:6], store=store)["after"] == current
    assert stores.run("publish", "beef", store=store).returncode == 3
    assert stores.run("diff", current, current, "--measure", "nonsense", store=store).returncode == 2
    (store.bundles(stores.MODEL) / previous / ROWS).write_bytes(b"")
    assert stores.run("rollback", store=store).returncode == 4
    assert InvalidInputError("").exit_code == 2
