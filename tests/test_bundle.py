"""A bundle is whole or refused: every damaged, missing or swapped file is named."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from proponent.errors import CorruptBundleError
from proponent.index.bundle import (
    FILES,
    MANIFEST,
    Manifest,
    file_sha256,
    read_manifest,
    seal,
    verify_files,
    write_json,
    write_manifest,
)

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.dictionaries(
    st.text(max_size=5),
    st.recursive(st.none() | st.booleans() | st.integers() | NUMBER | st.text(max_size=5), st.lists, max_leaves=4),
    max_size=3,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    return seal(tiny.bundle_files(tmp_path / "new"), tiny.manifest(), tmp_path / "bundles")


def check(bundle: Path) -> Manifest:
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    return manifest


@settings(deadline=None, max_examples=30)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    number=NUMBER,
    size=st.integers(0, 2**53),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
    settings_=JSON,
)
def test_a_manifest_reads_back_the_same(
    name: str, number: float, size: int, names: list[str], settings_: dict[str, Any]
) -> None:
    written = tiny.manifest(
        model=name, damping=number, train_size=size, class_names=names, settings=settings_, audit={"x": settings_}
    )
    with tempfile.TemporaryDirectory() as directory:
        folder = tiny.bundle_files(Path(directory) / "b")
        digest = write_manifest(folder, written)
        found = check(folder)
        assert digest == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() == found.digest
        assert found == replace(written, digest=digest, files=found.files)


def test_every_file_is_listed_with_its_own_sha256(bundle: Path) -> None:
    for name, digest in check(bundle).files.items():
        assert digest == hashlib.sha256((bundle / name).read_bytes()).hexdigest() == file_sha256(bundle / name)


def test_a_sealed_bundle_bears_its_digest_and_leaves_nothing_behind(bundle: Path) -> None:
    assert bundle.name == check(bundle).digest
    assert not (bundle.parent.parent / "new").exists()
    assert {path.name for path in bundle.iterdir()} == {*FILES, MANIFEST}


def test_sealing_the_same_content_again_changes_nothing(bundle: Path) -> None:
    before = (bundle / MANIFEST).stat().st_ino
    again = seal(tiny.bundle_files(bundle.parent.parent / "new"), tiny.manifest(), bundle.parent)
    assert (again, (again / MANIFEST).stat().st_ino) == (bundle, before)
    assert not (bundle.parent.parent / "new").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [flip, truncate, lengthen, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(bundle: Path, name: str, damage: Any) -> None:
    damage(bundle / name)
    what = "missing" if damage is Path.unlink else "damaged"
    with pytest.raises(CorruptBundleError, match=f"bundle file is {what}: {bundle / name}") as caught:
        check(bundle)
    assert (caught.value.field, caught.value.reason) == (name, "BUNDLE_CORRUPT")


def test_two_swapped_files_are_noticed(bundle: Path) -> None:
    for first, second in itertools.pairwise(FILES):
        one, other = (bundle / first).read_bytes(), (bundle / second).read_bytes()
        (bundle / first).write_bytes(other)
        (bundle / second).write_bytes(one)
        with pytest.raises(CorruptBundleError, match="damaged"):
            check(bundle)
        (bundle / first).write_bytes(one)
        (bundle / second).write_bytes(other)
    check(bundle)


def test_a_file_of_another_bundle_is_noticed(bundle: Path, tmp_path: Path) -> None:
    other = tiny.bundle_files(tmp_path / "other", "another rebuild")
    for name in FILES:
        kept = (bundle / name).read_bytes()
        (bundle / name).write_bytes((other / name).read_bytes())
        with pytest.raises(CorruptBundleError) as caught:
            check(bundle)
        assert caught.value.field == name
        (bundle / name).write_bytes(kept)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"schema_version": 1, "files": {}}', b'"text"']
)
def test_a_damaged_manifest_is_named(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(CorruptBundleError, match=str(bundle / MANIFEST)) as caught:
        read_manifest(bundle)
    assert caught.value.field == MANIFEST


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptBundleError, match=f"manifest cannot be read: {tmp_path / MANIFEST}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values | {"schema_version": 2},
        lambda values: values | {"surprise": 1},
        lambda values: {key: value for key, value in values.items() if key != "damping"},
    ],
)
def test_a_manifest_of_another_schema_is_refused(tmp_path: Path, change: Any) -> None:
    folder = tiny.bundle_files(tmp_path / "b")
    write_manifest(folder, tiny.manifest())
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(change(values)))
    with pytest.raises(CorruptBundleError, match="keys of schema version 1"):
        read_manifest(folder)


def test_a_manifest_that_lists_too_few_files_is_refused(tmp_path: Path) -> None:
    folder = tiny.bundle_files(tmp_path / "b")
    write_manifest(folder, tiny.manifest())
    values = json.loads((folder / MANIFEST).read_text())
    del values["files"]["rows.faiss"]
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(CorruptBundleError, match=r"expected .*rows\.faiss"):
        check(folder)


def test_a_manifest_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(tiny.bundle_files(tmp_path / "b"), tiny.manifest(damping=float("nan")))


def test_json_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash just before the replacement leaves the old content; a reader never sees a part."""
    path = tmp_path / "current"
    write_json(path, {"digest": "old"})

    def crash(*_: object) -> None:
        assert json.loads(path.read_text()) == {"digest": "old"}
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {"digest": "new"})
    assert json.loads(path.read_text()) == {"digest": "old"}
    write_json(path, {"digest": "new"})
    assert json.loads(path.read_text()) == {"digest": "new"}
