"""Forgotten: in no answer of any process or bundle at once, in no later rebuild, and off the disk at compaction."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import stores
import tiny
from proponent.errors import CorruptBundleError, InvalidInputError, NotFoundError
from proponent.explainer import Explainer
from proponent.index.bundle import CATALOG, FACTORS, read_manifest
from proponent.index.catalog import Catalog
from proponent.index.forgetting import forget
from proponent.index.lifecycle import list_bundles, rollback
from proponent.index.store import Store
from proponent.index.tombstones import FORGOTTEN, Tombstones
from proponent.options import Diversity, Estimator, ExplainOptions, Filter, Redundancy, Target, View
from proponent.rebuild.filtered_dataset import FilteredDataset
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Explanation, NoticeCode
from proponent.spec import load_spec

EVERYTHING = ExplainOptions(top_k=stores.COUNT, view=View.THUMBNAIL)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.build(tmp_path_factory.mktemp("forget"))


@pytest.fixture
def store(spec: Path, tmp_path: Path) -> Store:
    return stores.copy(spec.parents[1], tmp_path / "store")


def loaded(store: Store) -> Explainer:
    return Explainer.load(store.current(stores.MODEL))


def ask(explainer: Explainer, options: ExplainOptions = EVERYTHING) -> Explanation:
    [answer] = explainer.explain(tiny.inputs(1), [options])
    assert isinstance(answer, Explanation)
    return answer


def named(answer: Explanation) -> set[str]:
    return {i.example_id for result in answer.results for i in (*result.proponents, *result.opponents)}


def scores(answer: Explanation, leave_out: frozenset[str] = frozenset()) -> list[list[tuple[str, float]]]:
    """All lists in order, without some examples."""
    return [
        [(i.example_id, i.score) for i in end if i.example_id not in leave_out]
        for result in answer.results
        for end in (result.proponents, result.opponents)
    ]


def test_running_explainers_forget_at_once(store: Store) -> None:
    """Both bundles, opened before: nothing of the example is left, every other score is what it was."""
    explainers = [Explainer.load(path) for path in list_bundles(store, stores.MODEL)]
    before = [ask(explainer) for explainer in explainers]
    gone = frozenset({"toy/3", "toy/17"})
    assert gone <= named(before[0])
    receipt = forget(store, stores.MODEL, sorted(gone))
    assert (receipt.ids, receipt.newly_forgotten) == (sorted(gone), sorted(gone))
    assert receipt.still_on_disk == receipt.in_use == sorted(path.name for path in list_bundles(store, stores.MODEL))
    for explainer, earlier in zip(explainers, before, strict=True):
        after = ask(explainer)
        assert scores(after) == scores(earlier, gone)
        [notice] = [n for n in after.notices if n.code is NoticeCode.K_CAPPED]
        assert notice.count == stores.COUNT - 2


def test_where_nothing_is_forgotten_no_row_is_filtered(store: Store) -> None:
    """A mask of all rows would be multiplied into every bound of every query."""
    explainer = loaded(store)
    assert explainer._retrieval.not_forgotten() is None
    forget(store, stores.MODEL, ["toy/3"])
    mask = explainer._retrieval.not_forgotten()
    assert mask is not None and mask.logical_not().nonzero().flatten().tolist() == [3]


def test_forgotten_in_every_kind_of_answer(store: Store) -> None:
    explainer = loaded(store)
    value = tiny.inputs(1)[0]
    flip = explainer.find_flip_set(value, stores.COUNT - 1)
    [first, *_] = ask(explainer).results[0].proponents
    forget(store, stores.MODEL, [first.example_id])
    for options in (
        ExplainOptions(top_k=5, filter=Filter(allow=frozenset({first.class_id}))),
        ExplainOptions(top_k=5, filter=Filter(exclude=("toy/1",))),
        *(ExplainOptions(top_k=5, diversity=Diversity(r, 1.0, whole_dataset=True)) for r in Redundancy),
    ):
        assert first.example_id not in named(ask(explainer, options))
    with pytest.raises(NotFoundError, match=first.example_id):
        explainer.score_examples(value, [first.example_id], ExplainOptions())
    with pytest.raises(NotFoundError, match=first.example_id):
        explainer.estimate_removal(value, Target(), [first.example_id])
    assert flip.members
    later = explainer.find_flip_set(value, stores.COUNT - 1)
    assert first.example_id not in {member.example_id for member in later.members}


def test_forgetting_is_idempotent_and_cumulative(store: Store) -> None:
    first = forget(store, stores.MODEL, ["toy/1", "toy/1"])
    assert (first.ids, first.newly_forgotten, first.forgotten_total) == (["toy/1"], ["toy/1"], 1)
    again = forget(store, stores.MODEL, ["toy/1"])
    assert (again.newly_forgotten, again.forgotten_total) == ([], 1)
    second = forget(store, stores.MODEL, ["toy/2", "toy/1"])
    assert (second.newly_forgotten, second.forgotten_total) == (["toy/2"], 2)
    compacted = forget(store, stores.MODEL, ["toy/1"], compact=True)
    assert (len(compacted.bundles), len(compacted.removed)) == (2, 2)
    pointer = store.pointer(stores.MODEL)
    nothing = forget(store, stores.MODEL, ["toy/1"], compact=True)
    assert (nothing.bundles, nothing.removed, nothing.still_on_disk) == ([], [], [])
    assert store.pointer(stores.MODEL) == pointer


def test_an_unknown_id_changes_nothing(store: Store) -> None:
    with pytest.raises(NotFoundError, match="'toy/99'; nothing was forgotten") as caught:
        forget(store, stores.MODEL, ["toy/1", "toy/99"], compact=True)
    assert caught.value.reason == "EXAMPLE_UNKNOWN"
    assert Tombstones.open(store, stores.MODEL).ids() == frozenset()
    with pytest.raises(NotFoundError, match="'tyop'"):
        forget(store, "tyop", ["toy/1"])


def test_a_dry_run_changes_nothing(store: Store) -> None:
    receipt = forget(store, stores.MODEL, ["toy/1"], compact=True, dry_run=True)
    assert (receipt.dry_run, receipt.newly_forgotten, receipt.compacted) == (True, ["toy/1"], False)
    assert Tombstones.open(store, stores.MODEL).ids() == frozenset()


def test_compaction_leaves_no_trace_and_changes_no_other_score(store: Store) -> None:
    """Ids, thumbnails and rows are in no file of any bundle; scores of the others agree to the last digit."""
    gone = frozenset({"toy/3", "toy/17"})
    current = store.current(stores.MODEL)
    with closing(Catalog.open(current / CATALOG)) as catalog:
        thumbnails = [entry.thumbnail for entry in (catalog.get(name) for name in sorted(gone)) if entry]
    explainer = loaded(store)
    before, rows = ask(explainer), explainer.index.unit_rows([3, 17]).half().numpy().tobytes()
    del explainer
    receipt = forget(store, stores.MODEL, sorted(gone), compact=True)
    assert (receipt.compacted, receipt.still_on_disk) == (True, [])
    assert (receipt.bundles[0].before, receipt.bundles[0].rows_removed) == (current.name, 2)
    assert store.current(stores.MODEL).name == receipt.bundles[0].after
    assert sorted(receipt.removed) == sorted(change.before for change in receipt.bundles)
    content = b"".join(path.read_bytes() for path in store.bundles(stores.MODEL).rglob("*") if path.is_file())
    for trace in (b"toy/17", b"data.safetensors#17", rows[:40], rows[-40:], *thumbnails):
        assert trace
        assert trace not in content
    after = ask(loaded(store))
    assert scores(after) == scores(before, gone)
    manifest = read_manifest(store.current(stores.MODEL))
    assert (manifest.train_size, manifest.forgotten_rows) == (stores.COUNT, 2)
    assert stores.output("verify", store=store)["rescored"] == stores.COUNT - 2


def test_compaction_changes_no_estimate_of_a_removal(store: Store) -> None:
    """Their mean row is that of all examples trained on; a third of them, all of one class, leave the rows."""
    gone, group = [f"toy/{row}" for row in range(0, stores.COUNT, 3)], ["toy/1", "toy/4", "toy/8"]
    value = tiny.inputs(1)[0]

    def estimates() -> list[float]:
        explainer = loaded(store)
        return [explainer.estimate_removal(value, Target(1), group, estimator=e).loss_change for e in Estimator]

    before = estimates()
    forget(store, stores.MODEL, gone)
    assert estimates() == before
    forget(store, stores.MODEL, gone[:1], compact=True)
    for estimator, was, now in zip(Estimator, before, estimates(), strict=True):
        assert now == pytest.approx(was, rel=0.1 if estimator is Estimator.SECOND_ORDER else 1e-3)


def test_rollback_after_compaction(store: Store) -> None:
    """The bundle before is rewritten as well, so that there still is one to go back to."""
    receipt = forget(store, stores.MODEL, ["toy/5"], compact=True)
    assert rollback(store, stores.MODEL).after == receipt.bundles[1].after
    assert "toy/5" not in named(ask(loaded(store)))
    with closing(Catalog.open(store.current(stores.MODEL) / CATALOG)) as catalog:
        assert catalog.get("toy/5") is None


def test_a_bundle_in_use_is_removed_later(store: Store) -> None:
    """A worker that reads the old bundle keeps it, answers without the example, and can be restarted from it."""
    bundle = store.current(stores.MODEL)
    explainer = Explainer.load(bundle)
    receipt = forget(store, stores.MODEL, ["toy/5"], compact=True)
    assert receipt.still_on_disk == receipt.in_use == [bundle.name]
    assert "toy/5" not in named(ask(explainer))
    assert "toy/5" not in named(ask(Explainer.load(bundle)))
    del explainer
    later = forget(store, stores.MODEL, [], compact=True)
    assert (later.removed, later.still_on_disk) == ([bundle.name], [])
    assert not bundle.exists()


def test_later_rebuilds_do_not_see_it(spec: Path, store: Store) -> None:
    """Neither rows nor curvature: the bundle is what a dataset without the examples gives."""
    forget(store, stores.MODEL, ["toy/3", "toy/17"])
    bundle = rebuild(load_spec(spec), store, RebuildOptions(quiet=True))
    assert read_manifest(bundle).train_size == stores.COUNT - 2
    with closing(Catalog.open(bundle / CATALOG)) as catalog:
        assert catalog.count() == stores.COUNT - 2
        assert catalog.get("toy/3") is None
        assert [entry.example_id for entry in catalog][3:5] == ["toy/4", "toy/5"]
    with_all = load_file(store.bundles(stores.MODEL) / stores.digests(store)[1] / FACTORS)["basis"]
    without = load_file(bundle / FACTORS)["basis"]
    assert float((with_all.abs() - without.abs()).norm()) > 1e-3
    assert "toy/3" not in named(ask(Explainer.load(bundle)))


def test_all_examples_cannot_be_compacted_away(store: Store) -> None:
    ids = [f"toy/{number}" for number in range(stores.COUNT)]
    with pytest.raises(InvalidInputError, match="all 40 examples"):
        forget(store, stores.MODEL, ids, compact=True)
    answer = ask(loaded(store))
    assert named(answer) == set()
    assert forget(store, stores.MODEL, []).forgotten_total == stores.COUNT


def test_removal_estimates_survive_compaction(store: Store) -> None:
    """N stays the number that the model was trained on."""
    before = loaded(store).estimate_removal(
        tiny.inputs(1)[0], Target(), ["toy/1", "toy/2"], estimator=Estimator.SECOND_ORDER
    )
    forget(store, stores.MODEL, ["toy/30"], compact=True)
    after = loaded(store).estimate_removal(
        tiny.inputs(1)[0], Target(), ["toy/1", "toy/2"], estimator=Estimator.SECOND_ORDER
    )
    assert after.train_size == before.train_size == stores.COUNT
    assert after.loss_change == pytest.approx(before.loss_change, rel=0.2)


def test_tombstones_are_read_again_only_when_they_change(store: Store) -> None:
    reader = Tombstones.open(store, stores.MODEL)
    assert reader.ids() == frozenset()
    forget(store, stores.MODEL, ["toy/1"])
    first = reader.ids()
    assert first == {"toy/1"}
    assert reader.ids() is first
    assert (reader.contains("toy/1"), reader.contains("toy/2")) == (True, False)
    forget(store, stores.MODEL, ["toy/2"])
    assert reader.ids() == {"toy/1", "toy/2"}
    assert Tombstones.beside(store.current(stores.MODEL)).ids() == {"toy/1", "toy/2"}
    assert Tombstones.beside(store.root).ids() == frozenset()


def test_forget_by_the_command_line(store: Store) -> None:
    current, previous = stores.digests(store)
    receipt = stores.output("forget", "toy/1", "toy/2", "--compact", store=store)
    assert receipt["ids"] == ["toy/1", "toy/2"]
    assert [change["before"] for change in receipt["bundles"]] == [current, previous]
    assert receipt["time"].endswith("+00:00")
    assert "toy/1" not in {row["example_id"] for row in stores.output("suspects", store=store)["suspects"]}
    assert stores.run("forget", "toy/99", store=store).returncode == 3
    assert stores.run("forget", store=store).returncode == 2
    listed = json.loads((store.directory(stores.MODEL) / "forgotten.json").read_text())
    assert sorted(listed["examples"]) == ["toy/1", "toy/2"]


def test_a_compacted_catalog_is_a_new_file(store: Store) -> None:
    """No free page of SQLite still holds what was deleted."""
    forget(store, stores.MODEL, ["toy/8"], compact=True)
    with closing(sqlite3.connect(store.current(stores.MODEL) / CATALOG)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_remaining_keeps_ids_and_order() -> None:
    class Plain:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
            return torch.tensor([float(position)]), position

    kept = FilteredDataset(Plain(), {"1", "7"})
    assert len(kept) == 3
    assert [kept.example_id(i) for i in range(3)] == ["0", "2", "3"]
    assert [kept[i][1] for i in range(3)] == [0, 2, 3]
    assert kept.source(0) == ""


def test_a_store_that_is_gone_is_no_store_where_nothing_is_forgotten(store: Store) -> None:
    """The rows are still mapped and could be answered from; nobody can say any more who must not be named."""
    explainer = loaded(store)
    forgotten = ask(explainer).results[0].proponents[0].example_id
    forget(store, stores.MODEL, [forgotten])
    assert forgotten not in named(ask(explainer))
    away = store.root.rename(store.root.with_name("away"))
    with pytest.raises(CorruptBundleError) as caught:
        ask(explainer)
    assert caught.value.field == FORGOTTEN
    away.rename(store.root)
    assert named(ask(explainer)) and forgotten not in named(ask(explainer))
    explainer.close()
