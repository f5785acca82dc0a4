"""The pointer names a bundle by digest, is replaced in one step, remembers the one before, and is never trusted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from proponent.errors import CorruptBundleError, NotFoundError
from proponent.index.bundle import MANIFEST, seal
from proponent.index.store import CURRENT, Store


def add(store: Store, text: str, model: str = "toy") -> str:
    directory = tiny.bundle_files(store.root / "new", text)
    return seal(directory, tiny.manifest(created=text), store.bundles(model)).name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    found.root.mkdir()
    found.set_current("toy", add(found, "first"))
    return found


def pointer_path(store: Store) -> Path:
    return store.directory("toy") / CURRENT


def test_the_published_bundle_is_current(store: Store) -> None:
    path = store.current("toy")
    assert (path.parent, path.name) == (store.bundles("toy"), store.pointer("toy")["digest"])
    assert store.models() == ["toy"]


def test_a_bundle_that_is_not_published_is_not_current(store: Store) -> None:
    first = store.current("toy")
    add(store, "second")
    assert store.current("toy") == first


def test_the_one_before_is_remembered_and_publishing_twice_does_not_lose_it(store: Store) -> None:
    first, second = store.pointer("toy")["digest"], add(store, "second")
    assert "previous" not in store.pointer("toy")
    for _ in range(2):
        store.set_current("toy", second)
        assert store.pointer("toy") == {"digest": second, "previous": first}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8))
def test_previous_is_the_last_other_bundle_whatever_is_published(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(directory)
        store.bundles("toy")
        for name in names:
            store.set_current("toy", name * 64)
        found = store.pointer("toy")
    others = [name for name in names if name != names[-1]]
    assert found.pop("digest") == names[-1] * 64
    assert found == ({"previous": others[-1] * 64} if others else {})


def test_a_store_of_several_models_lists_those_with_a_current_bundle(store: Store) -> None:
    add(store, "x", "unpublished")
    store.set_current("another", add(store, "y", "another"))
    assert store.models() == ["another", "toy"]


def test_an_unknown_model_is_answered_with_the_known_ones(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no bundle for model 'tyo' in .*store \(models: toy\)"):
        store.current("tyo")


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"\(models: none\)"):
        Store(tmp_path).current("toy")
    with pytest.raises(NotFoundError, match=f"store not found: {tmp_path / 'missing'}.*proponent rebuild"):
        Store(tmp_path / "missing").models()


DAMAGED = ["", "{", "[]", "null", "3", '"digest"', "{}", '{"digest": 3}', '{"digest": null}', '{"digest": "../x"}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_pointer_is_named(store: Store, content: str) -> None:
    pointer_path(store).write_text(content)
    with pytest.raises(CorruptBundleError, match=str(pointer_path(store))) as caught:
        store.current("toy")
    assert caught.value.field == CURRENT


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", *(text.encode() for text in DAMAGED)])
def test_a_damaged_pointer_is_mended_by_the_next_publication(store: Store, content: bytes) -> None:
    second = add(store, "second")
    pointer_path(store).write_bytes(content)
    store.set_current("toy", second)
    assert store.pointer("toy") == {"digest": second}
    assert store.current("toy").name == second


@pytest.mark.parametrize("digest", ["", ".", "..", "0" * 64, "x\x00y"])
def test_a_pointer_to_no_bundle_is_noticed(store: Store, digest: str) -> None:
    pointer_path(store).write_text(json.dumps({"digest": digest}))
    with pytest.raises(CorruptBundleError):
        store.current("toy")


def test_a_manifest_that_is_not_the_one_published_is_noticed(store: Store) -> None:
    path = store.current("toy") / MANIFEST
    path.write_text(path.read_text().replace("0.01", "0.02"))
    with pytest.raises(CorruptBundleError, match=f"bundle file is damaged: {path} has SHA-256 .* expected"):
        store.current("toy")


def test_a_removed_bundle_is_noticed(store: Store) -> None:
    path = store.current("toy")
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(CorruptBundleError, match=f"bundle file is missing: {path / MANIFEST}"):
        store.current("toy")


def test_a_crash_before_the_replacement_keeps_the_old_pointer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = store.current("toy"), add(store, "second")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.set_current("toy", second)
    assert store.current("toy") == first
    store.set_current("toy", second)
    assert store.current("toy").name == second


def test_a_store_without_models_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no model in .*proponent rebuild"):
        Store(tmp_path).only_model(None)
    assert Store(tmp_path).only_model("digits") == "digits"
