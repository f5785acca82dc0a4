"""What one user writes another can read, as far as the umask says; what cannot be read is said, not crashed on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import stores
import tiny
from gateway_fakes import sealed_bundle
from proponent.errors import CorruptBundleError, UnavailableError
from proponent.gateway.served_model import open_models
from proponent.gateway.settings import Settings
from proponent.index.catalog import Catalog
from proponent.index.store import Store
from proponent.index.tombstones import Tombstones
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.training.train_preset import train_preset


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}


@pytest.mark.parametrize(("mask", "file", "directory"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_a_store_follows_the_umask(tmp_path: Path, mask: int, file: int, directory: int) -> None:
    with umask(mask):
        spec = load_spec(tiny.project(tmp_path / "project"))
        rebuild(spec, Store(tmp_path / "store"), RebuildOptions(quiet=True))
        store = Store(tmp_path / "store")
        stores.output("forget", "toy/1", "--compact", store=store)
    found = modes(tmp_path / "store")
    assert len(found) >= 14
    wrong = {n: oct(m) for n, m in found.items() if m != (directory if (tmp_path / "store" / n).is_dir() else file)}
    assert not wrong


def test_trained_weights_follow_the_umask(tmp_path: Path) -> None:
    with umask(0o022):
        train_preset("digits", tmp_path / "out")
    assert set(modes(tmp_path / "out").values()) == {0o644}


def test_a_bundle_that_cannot_be_opened_is_a_model_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E.g. of another user: the gateway starts, and the model answers with the reason."""
    store = Store(tmp_path / "store")
    store.set_current("toy", sealed_bundle(store, "a").name)
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.name == "manifest.json":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    error = open_models(Settings(store=store.root))["toy"].error
    assert isinstance(error, UnavailableError) and error.reason == "BUNDLE_UNREADABLE"
    assert "Permission denied" in error.message


def test_other_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").symlink_to("/proc/self/mem")
    with pytest.raises(CorruptBundleError, match=r"catalog\.sqlite"):
        Catalog.open(tmp_path / "catalog.sqlite")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CorruptBundleError, match="forgotten examples cannot be read"):
        Tombstones(tmp_path / "loop").ids()
