"""Whatever loading raises is what callers are told, and a repaired bundle is loaded without being asked to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import tiny
from proponent.errors import CorruptBundleError, MismatchError, ProponentError, SpecError, UnavailableError
from proponent.explainer import Explainer
from proponent.index.bundle import CATALOG, FACTORS, ROWS, SCALES, WEIGHTS
from proponent.index.rows import padded
from proponent.index.store import Store
from proponent.options import ExplainOptions, Filter
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Explanation
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker.batch import Item, Worker
from proponent.worker.loading import LoadedBundle


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Script:
    """Raises one error after the other, then gives the explainer."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.explainer = cast(Explainer, object())

    def __call__(self) -> Explainer:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.explainer


@pytest.mark.parametrize(
    ("error", "kind", "reason", "told"),
    [
        (CorruptBundleError("rows"), CorruptBundleError, "BUNDLE_CORRUPT", "rows"),
        (MismatchError("weights"), MismatchError, "INDEX_MODEL_MISMATCH", "weights"),
        (SpecError("key 'loss'"), UnavailableError, "SPEC_INVALID", "key 'loss'"),
        (PermissionError(13, "Permission denied", "rows.faiss"), UnavailableError, "BUNDLE_UNREADABLE", "denied"),
        (OSError(5, "Input/output error"), UnavailableError, "BUNDLE_UNREADABLE", "Input/output error"),
        (KeyError("secret"), UnavailableError, "MODEL_NOT_LOADED", "KeyError"),
        (MemoryError(), UnavailableError, "MODEL_NOT_LOADED", "MemoryError"),
    ],
)
def test_whatever_loading_raises_is_what_callers_are_told(
    error: Exception, kind: type[ProponentError], reason: str, told: str
) -> None:
    found = LoadedBundle(Script(error)).predictor
    assert isinstance(found, kind) and not isinstance(found, SpecError)
    assert found.reason == reason and told in found.message and "secret" not in found.message


def test_it_is_loaded_again_ever_more_rarely() -> None:
    clock, script = Clock(), Script(*(OSError("disk") for _ in range(9)))
    loaded = LoadedBundle(script, clock)
    calls = []
    for second in range(240):
        clock.now = float(second)
        _ = loaded.predictor
        calls.append(script.calls)
    tries = [second for second in range(1, 240) if calls[second] > calls[second - 1]]
    assert tries == [1, 3, 7, 15, 31, 63, 123, 183]
    clock.now = 1000.0
    assert loaded.predictor is script.explainer


@pytest.fixture
def bundle(tmp_path: Path, built: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "store")) / "toy" / "bundles" / next(_bundles(built))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loading")
    rebuild(load_spec(tiny.project(root)), Store(root / "store"), RebuildOptions(quiet=True))
    return root / "store"


def _bundles(store: Path) -> Iterator[str]:
    return (path.name for path in (store / "toy" / "bundles").iterdir())


def _overwrite(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        size = (bundle / name).stat().st_size
        with (bundle / name).open("r+b") as file:
            file.seek(size // 2)
            file.write(bytes(size // 4))

    return change


def _forgotten(bundle: Path) -> None:
    (bundle.parent.parent / "forgotten.json").write_text("{")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "rows": _overwrite(ROWS),
    "scales": _overwrite(SCALES),
    "factors": _overwrite(FACTORS),
    "catalog": _overwrite(CATALOG),
    "catalog gone": lambda bundle: (bundle / CATALOG).unlink(),
    "list of forgotten examples": _forgotten,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_while_serving_is_seen_and_so_is_its_repair(bundle: Path, tmp_path: Path, name: str) -> None:
    clock, kept = Clock(), tmp_path / "kept"
    loaded = LoadedBundle(lambda: Explainer.load(bundle), clock)
    worker, probe = Worker(loaded), [Item(WorkerRequest(), as_json=False)]
    assert not worker.handle(probe)[0].HasField("error")
    shutil.copytree(bundle.parent.parent, kept)
    DAMAGE[name](bundle)
    assert worker.handle(probe)[0].error.reason == "BUNDLE_CORRUPT"
    clock.now = 10.0
    assert worker.handle(probe)[0].error.reason == "BUNDLE_CORRUPT"
    shutil.rmtree(bundle.parent.parent)
    shutil.copytree(kept, bundle.parent.parent)
    assert worker.handle(probe)[0].error.reason == "BUNDLE_CORRUPT"
    clock.now = 100.0
    assert not worker.handle(probe)[0].HasField("error")


def test_a_file_that_was_only_touched_is_no_damage(bundle: Path) -> None:
    loaded = LoadedBundle(lambda: Explainer.load(bundle))
    (bundle / ROWS).touch()
    (bundle / WEIGHTS).unlink()  # is in memory
    assert isinstance(loaded.checked(), Explainer)


def test_an_unexpected_error_of_the_system_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    opened = open

    def failing(file: Any, *rest: Any, **named: Any) -> Any:
        if str(file).endswith("spec.yaml"):
            raise OSError(5, "Input/output error", str(file))
        return opened(file, *rest, **named)

    monkeypatch.setattr("io.open", failing)
    monkeypatch.setattr(builtins, "open", failing)
    [reply] = Worker.load(bundle, None, None).handle([Item(WorkerRequest(), as_json=False)])
    assert (
        reply.error.reason in ("BUNDLE_UNREADABLE", "BUNDLE_CORRUPT") and "Input/output error" in reply.error.message
    )


def _rows_of(content: np.ndarray[Any, Any]) -> Callable[[Path], None]:
    """Overwrites the stored numbers in place, behind the back of whoever has mapped them."""

    def change(bundle: Path) -> None:
        path = bundle / ROWS
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - content.nbytes)
            file.write(content.tobytes())

    return change


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 3.0])
def test_an_answer_from_rows_that_were_overwritten_is_an_error(bundle: Path, value: float) -> None:
    """Zeros gave empty lists and OK before."""
    explainer = Explainer.load(bundle)
    image = tiny.pictures(9, seed=5)[0][0].float()[None] / 255
    [answer] = explainer.explain([image], [ExplainOptions(top_k=3)])
    assert isinstance(answer, Explanation) and answer.results[0].proponents
    rows = len(explainer.index) * padded(explainer.index.size)
    _rows_of(np.full(rows, value, np.float16))(bundle)
    request = pb.ExplainRequest(tensor=pb.Tensor(shape=[1, 6, 6], dtype="float32", data=image.numpy().tobytes()))
    [reply] = Worker(explainer).handle([Item(WorkerRequest(explain=request), as_json=False)])
    assert reply.error.reason == "BUNDLE_CORRUPT" and "overwritten" in reply.error.message


def test_empty_lists_remain_where_nothing_may_appear(bundle: Path) -> None:
    explainer = Explainer.load(bundle)
    image = tiny.pictures(9, seed=5)[0][0].float()[None] / 255
    everything = tuple(entry.example_id for entry in explainer.catalog)
    [answer] = explainer.explain([image], [ExplainOptions(filter=Filter(exclude=everything))])
    assert isinstance(answer, Explanation) and not any(r.proponents or r.opponents for r in answer.results)
