"""Whatever happens to a file of a bundle before it is loaded is found, and the error names the file.

Changes to a file that a process has mapped already are out of reach: no check at loading can see them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import stores
from proponent.errors import CorruptBundleError, ProponentError
from proponent.explainer import Explainer
from proponent.index.bundle import CATALOG, FACTORS, FILES, MANIFEST, ROWS, SCALES, SPEC, WEIGHTS, write_manifest
from proponent.index.bundle import read_manifest as read
from proponent.index.catalog import Catalog, write_catalog
from proponent.index.lifecycle import make_current
from proponent.index.rows import InfluenceIndex, write_rows, write_scales
from proponent.index.searchable import RowScales
from proponent.index.store import Store
from proponent.inspection.verify import Verification, verify

Damage = Callable[[Path], None]
ALL = (*FILES, MANIFEST)


def flip(place: float, bit: int) -> Damage:
    """One bit at a share of the file's length."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1 << bit
        path.write_bytes(content)

    return damage


def truncate(share: float) -> Damage:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


DAMAGES: dict[str, Damage] = {
    **{f"flip {place} {bit}": flip(place, bit) for place in (0.0, 0.03, 0.5, 0.97, 1.0) for bit in (0, 6)},
    **{f"truncate {share}": truncate(share) for share in (0.0, 0.3, 0.999)},
    "append": append,
    "missing": Path.unlink,
    "directory": lambda path: (path.unlink(), path.mkdir())[0],
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stores.build(tmp_path_factory.mktemp("corruption"))


@pytest.fixture
def store(spec: Path, tmp_path: Path) -> Store:
    return stores.copy(spec.parents[1], tmp_path / "store")


@pytest.fixture
def bundle(store: Store) -> Path:
    return store.current(stores.MODEL)


def found_by_verify(bundle: Path) -> list[str]:
    """Files that verify names, whether it raises or reports."""
    try:
        return [problem.file for problem in verify(bundle, sample=0).problems]
    except CorruptBundleError as error:
        return [error.field]


@pytest.mark.parametrize("name", ALL)
def test_damage_is_found_at_loading_and_by_verify(store: Store, bundle: Path, name: str) -> None:
    whole = (bundle / name).read_bytes()
    for kind, damage in DAMAGES.items():
        damage(bundle / name)
        with pytest.raises(CorruptBundleError) as caught:
            Explainer.load(bundle)
        assert caught.value.field == name, kind
        assert str(bundle / name) in caught.value.message, kind
        assert found_by_verify(bundle) == [name], kind
        with pytest.raises(CorruptBundleError):
            make_current(store, stores.MODEL, bundle.name)
        if (bundle / name).is_dir():
            (bundle / name).rmdir()
        (bundle / name).write_bytes(whole)
    assert verify(bundle, sample=0).whole


@pytest.mark.parametrize("name", ALL)
def test_files_of_another_bundle_are_found(store: Store, bundle: Path, name: str) -> None:
    other = bundle.with_name(stores.digests(store)[1])
    if (other / name).read_bytes() == (bundle / name).read_bytes():
        assert name in (WEIGHTS, CATALOG)
        return
    shutil.copyfile(other / name, bundle / name)
    with pytest.raises(CorruptBundleError, match=name):
        Explainer.load(bundle)


def test_swapped_files_are_all_named(bundle: Path) -> None:
    for first, second in ((ROWS, SCALES), (FACTORS, WEIGHTS), (CATALOG, SPEC)):
        (bundle / first).rename(bundle / "aside")
        (bundle / second).rename(bundle / first)
        (bundle / "aside").rename(bundle / second)
    assert sorted(found_by_verify(bundle)) == sorted(FILES)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'"x"', b'{"digest": 3}', b'{"digest": "../x"}', b"{}"])
def test_a_damaged_pointer_is_told_and_can_be_replaced(store: Store, content: bytes) -> None:
    current, _ = stores.digests(store)
    pointer = store.directory(stores.MODEL) / "current"
    pointer.write_bytes(content)
    with pytest.raises(CorruptBundleError, match="current"):
        store.current(stores.MODEL)
    make_current(store, stores.MODEL, current)
    assert store.current(stores.MODEL).name == current


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"schema_version": 1}', b'{"examples": {}}'])
def test_a_damaged_list_of_the_forgotten_stops_answers(store: Store, bundle: Path, content: bytes) -> None:
    """Rather no answer than one that shows what was to be forgotten."""
    explainer = Explainer.load(bundle)
    (store.directory(stores.MODEL) / "forgotten.json").write_bytes(content)
    with pytest.raises(CorruptBundleError, match=r"forgotten\.json"):
        explainer.score_examples(explainer.index.unit_rows([0])[0], ["toy/1"], None)  # type: ignore[arg-type]


def resealed(bundle: Path, store: Store, change: Callable[[Path], None]) -> Path:
    """A bundle with true checksums whose content is wrong: what only verify can find."""
    target = store.bundles(stores.MODEL) / "resealed"
    shutil.copytree(bundle, target)
    change(target)
    manifest = read(target)
    write_manifest(target, manifest)
    return target


def scales_of(directory: Path) -> RowScales:
    return InfluenceIndex.open(directory / ROWS, directory / SCALES, read(directory).embedding_size).scales


def shuffle_rows(directory: Path) -> None:
    """Rows of other examples under the same scales."""
    index = InfluenceIndex.open(directory / ROWS, directory / SCALES, read(directory).embedding_size)
    rows = index.unit_rows(range(len(index))).flip(0).half()
    (directory / ROWS).unlink()
    write_rows(directory / ROWS, [rows], index.size)


def longer_rows(directory: Path) -> None:
    index = InfluenceIndex.open(directory / ROWS, directory / SCALES, read(directory).embedding_size)
    rows = index.unit_rows(range(len(index))).half()
    rows[3] *= 2
    (directory / ROWS).unlink()
    write_rows(directory / ROWS, [rows], index.size)


def infinite_norm(directory: Path) -> None:
    scales = scales_of(directory)
    scales.norms[2] = float("inf")
    write_scales(directory / SCALES, scales)


def another_label(directory: Path) -> None:
    rewrite_catalog(directory, lambda values: {**values, "class_id": (values["class_id"] + 1) % 3})


def label_out_of_range(directory: Path) -> None:
    rewrite_catalog(directory, lambda values: {**values, "class_id": 7})


def another_id(directory: Path) -> None:
    rewrite_catalog(directory, lambda values: {**values, "example_id": f"x{values['example_id']}"})


def fewer_examples(directory: Path) -> None:
    rewrite_catalog(directory, lambda values: values if values["row"] < 39 else None)


def rewrite_catalog(directory: Path, change: Callable[[dict[str, object]], dict[str, object] | None]) -> None:
    catalog = Catalog.open(directory / CATALOG)
    entries = list(catalog)
    catalog.close()
    (directory / CATALOG).unlink()
    changed = [change(dict(vars(entry))) for entry in entries]
    write_catalog(directory / CATALOG, [type(entries[0])(**c) for c in changed if c is not None])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (shuffle_rows, ROWS),
        (longer_rows, ROWS),
        (infinite_norm, SCALES),
        (another_label, CATALOG),
        (label_out_of_range, CATALOG),
        (another_id, CATALOG),
        (fewer_examples, CATALOG),
    ],
)
def test_verify_finds_what_checksums_cannot(
    bundle: Path, store: Store, change: Callable[[Path], None], file: str
) -> None:
    """Rows are embedded again by the model; ids and labels are compared with the dataset's."""
    found = verify(resealed(bundle, store, change))
    assert not found.whole
    assert {problem.file for problem in found.problems} == {file}


def test_verify_of_a_whole_bundle(bundle: Path, store: Store) -> None:
    found = verify(bundle, sample=1000)
    assert (found.whole, found.rescored, found.skipped) == (True, stores.COUNT, "")
    answer = stores.output("verify", "--sample", "5", store=store)
    assert (answer["whole"], answer["rescored"], answer["problems"]) == (True, 5, [])


def test_verify_says_when_there_is_no_dataset(bundle: Path, store: Store) -> None:
    """The files are checked all the same, and no row is said to have been."""

    def elsewhere(directory: Path) -> None:
        text = (directory / SPEC).read_text()
        (directory / SPEC).write_text(text.replace(":Images", ":Nowhere"))

    found = verify(resealed(bundle, store, elsewhere))
    assert isinstance(found, Verification)
    assert (found.whole, found.rescored) == (True, 0)
    assert "Nowhere" in found.skipped


def test_verify_by_the_command_line_says_what_is_damaged(bundle: Path, store: Store) -> None:
    flip(0.5, 3)(bundle / ROWS)
    done = stores.run("verify", "--json", store=store)
    assert done.returncode == 4
    assert [problem["file"] for problem in json.loads(done.stdout)["problems"]] == [ROWS]
    truncate(0.5)(bundle / MANIFEST)
    done = stores.run("verify", store=store)
    assert (done.returncode, "manifest" in done.stderr) == (4, True)


def test_errors_of_damage_are_for_users(bundle: Path) -> None:
    (bundle / ROWS).unlink()
    with pytest.raises(ProponentError) as caught:
        Explainer.load(bundle)
    assert caught.value.reason == "BUNDLE_CORRUPT"
