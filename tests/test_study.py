"""The study: every experiment in quick mode, resumed after a kill, and its errors."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from proponent.cli.exit_codes import INTERRUPTED
from proponent.cli.main import app
from proponent.errors import BusyError, InvalidInputError, NotFoundError, ProponentError, StorageError
from proponent.index.lock import LOCK, exclusive
from proponent.rebuild.progress import StageProgress
from proponent.study import code
from proponent.study.document import document, take
from proponent.study.inventory import INVENTORY
from proponent.study.kept import DamagedWarning
from proponent.study.pages import study_page
from proponent.study.registry import EXPERIMENTS, chosen
from proponent.study.reproduction import finite, reproduce, results
from proponent.study.run_file import RESULT, RUN
from proponent.study.workbench import Trained, Workbench

DOCS = Path(__file__).parent.parent / "docs"
KILLED = 9
pytestmark = [
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
    pytest.mark.timeout(1200),  # all experiments are made for the first test
]


def run(names: list[str], out: Path, data_root: Path | None, *, quick: bool = True) -> None:
    with StageProgress(quiet=True) as progress:
        reproduce(chosen(names), out, quick=quick, data_root=data_root, progress=progress)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """All experiments, in quick mode."""
    out = tmp_path_factory.mktemp("study")
    run(["all"], out, data_root)
    return out


@pytest.fixture(scope="module")
def found(study: Path) -> dict[str, Any]:
    return results(study)


@pytest.mark.data
@pytest.mark.slow
def test_every_experiment_leaves_a_table_a_paragraph_and_its_figures(study: Path, found: dict[str, Any]) -> None:
    assert list(found) == list(EXPERIMENTS)
    for name, result in found.items():
        page = (study / name / "README.md").read_text(encoding="utf-8")
        assert "| --- |" in page and result["paragraph"] in page and result["quick"]
        assert result["rows"] and all(len(row) == len(result["columns"]) for row in result["rows"])
        assert result["claims"] and all(claim["holds"] in (True, False, None) for claim in result["claims"])
        assert result["pictures"]
        for picture in result["pictures"]:
            with Image.open(study / name / f"{picture}.png") as image:
                assert len(np.unique(np.asarray(image.convert("L")))) > 3, f"{picture} is blank"
            assert ElementTree.parse(study / name / f"{picture}.svg").getroot().tag.endswith("svg")


@pytest.mark.data
@pytest.mark.slow
def test_the_page_of_the_study_tells_every_claim(study: Path, found: dict[str, Any]) -> None:
    page = (study / "study.md").read_text(encoding="utf-8")
    assert page == study_page(found)
    for result in found.values():
        assert all(claim["claim"].replace("|", "\\|") in page for claim in result["claims"])


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert document(DOCS) == (DOCS / "study.md").read_text(encoding="utf-8"), "run scripts/docs"
    committed = results(DOCS / "study")
    assert committed and not any(result["quick"] for result in committed.values())
    missing = [name for name in EXPERIMENTS if name not in committed]
    assert all(f"`{name}` (" in document(DOCS) for name in missing)
    files = [path for path in (DOCS / "study").rglob("*") if path.is_file()]
    wanted = {f"{name}/{picture}.png" for name, result in committed.items() for picture in result["pictures"]}
    assert {path.relative_to(DOCS / "study").as_posix() for path in files if path.suffix == ".png"} == wanted
    assert sum(path.stat().st_size for path in files) < 5_000_000


def test_the_committed_inventory_lists_every_result_that_is_not_called_older() -> None:
    page, study = ((DOCS / name).read_text(encoding="utf-8") for name in (f"study/{INVENTORY}", "study.md"))
    for name, result in results(DOCS / "study").items():
        if result["code"] != EXPERIMENTS[name].code:
            assert re.search(rf"^Of an earlier run, .*`{name}`", study, re.MULTILINE)
            continue
        own, models = result["cpu_seconds"], result["models_cpu_seconds"]
        assert f"| {name} | {own:,.0f} | {models:,.0f} | 20" in page
        assert all(f"| {name}/{picture}.png | " in page for picture in result["pictures"])


@pytest.mark.data
@pytest.mark.slow
def test_results_are_taken_into_the_documents(study: Path, found: dict[str, Any], tmp_path: Path) -> None:
    take(study, tmp_path)
    assert results(tmp_path / "study") == found
    page = document(tmp_path)
    assert all((tmp_path / link).is_file() for link in re.findall(r"!\[.*?\]\((.*?)\)", page)) and "![" in page


@pytest.mark.data
@pytest.mark.slow
def test_the_inventory_names_every_file_and_counts_every_model_once(study: Path, found: dict[str, Any]) -> None:
    page = (study / INVENTORY).read_text(encoding="utf-8")
    for path in (path for name in found for path in (study / name).glob("*.*")):
        assert f"| {path.relative_to(study).as_posix()} | {path.stat().st_size:,} | 20" in page
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in (study / "models").glob("*/*.json")]
    models, own = (
        sum(of) for of in ([k.get("cpu_seconds", 0) for k in kept], [r["cpu_seconds"] for r in found.values()])
    )
    assert f"{len(found)} experiments, {own:,.0f} s of their own and {models:,.0f} s of models." in page
    for result in found.values():
        assert result["models_cpu_seconds"] <= models + 0.1


def test_code_is_what_an_experiment_reaches_and_not_what_only_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def codes() -> tuple[str, str]:
        return EXPERIMENTS["outlier"].code, EXPERIMENTS["table1"].code

    shutil.copytree(code.ROOT, tmp_path / "study")
    monkeypatch.setattr(code, "ROOT", tmp_path / "study")
    outlier, table1 = codes()
    for name, changes in (("points", (True, False)), ("workbench", (True, True)), ("drawing", (False, False))):
        before = codes()
        with (tmp_path / "study" / f"{name}.py").open("a") as file:
            file.write("# changed\n")
        assert tuple(new != old for new, old in zip(codes(), before, strict=True)) == changes
    assert codes()[0] != outlier and codes()[1] != table1


@pytest.mark.slow
def test_an_experiment_whose_code_has_changed_is_run_again_with_the_models_that_it_had(tmp_path: Path) -> None:
    run(["outlier"], tmp_path, None)
    result, [step] = tmp_path / "outlier" / RESULT, list((tmp_path / "outlier").glob("steps-*"))
    models = {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/*.json")}
    written = json.loads(result.read_text(encoding="utf-8"))
    result.write_text(json.dumps({**written, "code": "0badc0de", "paragraph": "of other code"}), encoding="utf-8")
    shutil.move(step, step.with_name("steps-0badc0de"))
    run(["outlier"], tmp_path, None)
    assert without_times(json.loads(result.read_text(encoding="utf-8"))) == without_times(written)
    assert step.is_dir() and {path: path.stat().st_mtime_ns for path in models} == models


@pytest.fixture(scope="module")
def outlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment of a second, with two models."""
    out = tmp_path_factory.mktemp("outlier")
    run(["outlier"], out, None)
    return out


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def unkeyed(path: Path) -> None:
    path.write_text("{}", encoding="utf-8")


def wrongly_typed(path: Path, key: str = "claims", value: object = 5) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), key: value}), encoding="utf-8")


def without_a_map_of_files(path: Path) -> None:
    wrongly_typed(path, "files", [])


def of_another_name(path: Path) -> None:
    wrongly_typed(path, "name", "shapley")


DAMAGE: tuple[dict[str, Callable[[Path], None]], ...] = (
    {RUN: empty, f"outlier/{RESULT}": cut},
    {RUN: unkeyed, f"outlier/{RESULT}": unkeyed},
    {"outlier/outlier.svg": Path.unlink, "outlier/outlier.png": cut},
    {
        f"outlier/{RESULT}": empty,
        "outlier/steps-*/seed-0.json": cut,
        "models/points-0-*/trained.json": unkeyed,
        "models/points-1-*/weights.safetensors": cut,
    },
    {
        f"outlier/{RESULT}": Path.unlink,
        "models/points-0-*/explain.yaml": empty,
        "models/points-0-*/index.json": cut,
        "models/points-1-*/store": shutil.rmtree,
    },
    {f"outlier/{RESULT}": empty, "models/points-0-*/store/*/bundles/*/rows.faiss": cut},
    {f"outlier/{RESULT}": wrongly_typed},
    {f"outlier/{RESULT}": without_a_map_of_files},
    {f"outlier/{RESULT}": of_another_name},
)


def contents(out: Path) -> dict[str, bytes]:
    """All files but for times and places: the names of bundles, and what is no figure, model or index."""
    same = (".png", ".svg", ".safetensors", ".faiss", "explain.yaml")
    files = [path for path in out.rglob("*") if path.is_file()]
    names = [re.sub(r"bundles/\w+", "bundles/DIGEST", path.relative_to(out).as_posix()) for path in files]
    return {name: path.read_bytes() if name.endswith(same) else b"" for name, path in zip(names, files, strict=True)}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: " ".join(Path(name).name for name in damage))
def test_what_is_damaged_is_named_and_made_again(
    outlier: Path, tmp_path: Path, damage: dict[str, Callable[[Path], None]]
) -> None:
    out = shutil.copytree(outlier, tmp_path / "moved")
    (out / "outlier" / "README.md").unlink()
    paths = {pattern: next(out.glob(pattern)) for pattern in damage}
    for pattern, change in damage.items():
        change(paths[pattern])
    with pytest.warns(DamagedWarning) as told:
        run(["outlier"], out, None)
    messages = [str(each.message) for each in told]
    for pattern, path in paths.items():
        if not (damage[pattern] is Path.unlink and path.name == RESULT) and damage[pattern] is not unkeyed:
            assert any(str(path.name) in message or str(path.parent) in message for message in messages), messages
    assert contents(out) == contents(outlier)
    assert without_times(results(out)["outlier"]) == without_times(results(outlier)["outlier"])


def test_results_of_older_code_that_were_not_asked_for_are_marked(outlier: Path, tmp_path: Path) -> None:
    out = shutil.copytree(outlier, tmp_path / "moved")
    result = json.loads((out / "outlier" / RESULT).read_text(encoding="utf-8"))
    (out / "outlier" / RESULT).write_text(json.dumps({**result, "code": "0badc0de"}), encoding="utf-8")
    run([], out, None)
    told = "Of an earlier run, by code that has changed since, are: `outlier`."
    assert told in (out / "study.md").read_text(encoding="utf-8")
    run(["outlier"], out, None)
    assert told not in (out / "study.md").read_text(encoding="utf-8")


@pytest.mark.data
@pytest.mark.slow
def test_a_second_run_keeps_what_was_finished(study: Path, data_root: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in study.rglob("result.json")}
    run(["all"], study, data_root)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("result.json")} == times


KILL = """
import os, sys
from proponent.cli.main import main
from proponent.study import workbench
write, left = workbench.write_whole, int(sys.argv[1])
def die_later(path, value):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    write(path, value)
workbench.write_whole = die_later
sys.argv = ["proponent", "reproduce", "outlier", "first_order", "--quick", "--quiet", "--out", sys.argv[2]]
main()
"""


@pytest.mark.data
@pytest.mark.slow
def test_a_killed_run_goes_on_and_finds_the_same(tmp_path: Path, found: dict[str, Any]) -> None:
    """Dies with both models indexed and one point of two retrained."""
    out = tmp_path / "study"
    done = subprocess.run([sys.executable, "-c", KILL, "3", str(out)], capture_output=True, text=True)
    assert done.returncode == KILLED, done.stderr
    steps = {path: path.stat().st_mtime_ns for path in out.rglob("steps-*/*.json")}
    assert len(steps) == 1 and results(out) == {}
    run(["outlier", "first_order"], out, None)
    assert {path: path.stat().st_mtime_ns for path in steps} == steps
    for name, result in results(out).items():
        assert without_times(result) == without_times(found[name])


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if not key.endswith("cpu_seconds")}


def test_an_unknown_experiment_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="experiment 'tabel1' is unknown, expected all or some of first_order, "):
        run(["outlier", "tabel1"], tmp_path, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_results_go_where_a_relative_path_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(["first_order"], Path("runs/study"), None)
    assert (tmp_path / "runs" / "study" / "first_order" / "README.md").exists()


def test_missing_data_are_told_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"looked at .*motorbike.* Set --data-root"):
        run(["outlier", "binary_cnn"], tmp_path / "study", tmp_path)
    assert not (tmp_path / "study" / "outlier").exists()


def test_a_folder_of_data_that_the_environment_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROPONENT_DATA", str(tmp_path / "gone"))
    with pytest.raises(NotFoundError, match=r"PROPONENT_DATA: .*gone is not a directory"):
        run(["outlier"], tmp_path / "study", None)


@pytest.mark.parametrize("name", ["study.md", "outlier/README.md", "outlier/outlier.png"])
def test_a_file_that_is_a_directory_is_named(outlier: Path, tmp_path: Path, name: str) -> None:
    out = shutil.copytree(outlier, tmp_path / "moved")
    (out / "outlier" / RESULT).unlink()
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(StorageError, match=f"Is a directory: .*{name}"):
        run(["outlier"], out, None)


def test_figures_that_are_not_finite_are_null_in_a_result() -> None:
    assert finite({"a": (float("nan"), 1.5, "nan"), "b": {"c": float("-inf"), "d": 2}}) == {
        "a": [None, 1.5, "nan"],
        "b": {"c": None, "d": 2},
    }


@pytest.mark.parametrize("result", sorted(DOCS.glob("study/*/result.json")), ids=lambda path: path.parent.name)
def test_committed_results_are_strict_json(result: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(result.read_text(encoding="utf-8"), parse_constant=refuse)


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"looked at .*MNIST/raw/train-images.* Set --data-root"):
        run(["table1"], tmp_path / "study", tmp_path, quick=False)


def holding_a_result(out: Path) -> Path:
    """A directory whose run file says what its results are of, and something that may be one."""
    run([], out, None)
    (out / "outlier").mkdir()
    (out / "outlier" / RESULT).write_text("{}", encoding="utf-8")
    return out


def test_quick_results_do_not_mix_with_the_studys(tmp_path: Path) -> None:
    holding_a_result(tmp_path)
    with pytest.raises(InvalidInputError, match="holds results of mode quick, and these would be of mode study"):
        run([], tmp_path, None, quick=False)


def test_what_was_asked_for_and_gave_nothing_binds_nobody(tmp_path: Path) -> None:
    """A wrong data root, or --quick by mistake: nothing was made, and the right run goes on there."""
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        with pytest.raises(NotFoundError, match="MNIST"):
            run(["table1"], tmp_path / "out", tmp_path / "empty", quick=False)
    run([], tmp_path / "out", tmp_path)


def test_results_of_two_versions_do_not_mix(tmp_path: Path) -> None:
    holding_a_result(tmp_path)
    noted = json.loads((tmp_path / RUN).read_text(encoding="utf-8"))
    (tmp_path / RUN).write_text(json.dumps({**noted, "version": "0.0.9+1234abcd"}), encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"of version 0\.0\.9\+1234abcd, and these would be of version \d"):
        run([], tmp_path, None)


def test_results_of_an_unknown_version_are_not_taken(tmp_path: Path) -> None:
    (holding_a_result(tmp_path) / RUN).unlink()
    with pytest.raises(InvalidInputError, match=r"holds results, but no run\.json says of which version"):
        run([], tmp_path, None)


@pytest.mark.data
@pytest.mark.slow
def test_results_of_two_data_roots_do_not_mix(study: Path, data_root: Path, tmp_path: Path) -> None:
    told = f"of data root {re.escape(str(data_root))}, and these would be of data root {re.escape(str(tmp_path))}"
    with pytest.raises(InvalidInputError, match=told):
        run([], study, tmp_path)
    run([], study, None)


def test_a_data_root_that_is_missing_is_named_though_nothing_is_read_of_it(tmp_path: Path) -> None:
    line = ["reproduce", "outlier", "--quick", "--out", str(tmp_path / "out"), "--data-root", str(tmp_path / "no")]
    done = subprocess.run([sys.executable, "-m", "proponent.cli", *line], capture_output=True, text=True)
    assert done.returncode == 3 and f"data root {tmp_path / 'no'} is not a directory" in done.stderr
    assert not (tmp_path / "out").exists()


def test_results_do_not_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="out is a file, expected the directory of the results"):
        run([], tmp_path / "out", None)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_two_runs_do_not_write_to_one_directory(tmp_path: Path) -> None:
    with exclusive(tmp_path / LOCK), pytest.raises(BusyError, match=f"another run writes to {tmp_path}, which is l"):
        run([], tmp_path, None)
    assert not (tmp_path / RUN).exists()


@pytest.mark.parametrize(
    ("out", "error"),
    [
        ("/proc/x", StorageError),
        ("/sys/x", StorageError),
        (__file__, InvalidInputError),
        (f"{__file__}/x", StorageError),
    ],
)
def test_a_directory_that_cannot_be_is_named(out: str, error: type[ProponentError]) -> None:
    with pytest.raises(error, match=re.escape(out)):
        run([], Path(out), None)


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run([], tmp_path, None)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=f"cannot write below {tmp_path}: .*No space left"):
        run([], tmp_path, None)


def test_seconds_of_a_step_count_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    def work() -> int:
        ends = time.process_time() + 0.2
        while time.process_time() < ends:
            pass
        return 1

    def bench() -> Workbench:
        folders = tmp_path / "own", tmp_path / "shared"
        return Workbench(*folders, code="c0de", quick=True, data_root=None, progress=StageProgress())

    spec: Any = SimpleNamespace(root=tmp_path / "model")
    model = Trained(spec=spec, accuracy=1, held_out_accuracy=1, cpu_seconds=0)
    killed = bench()
    killed.step("first", work), killed.shared(model, "halves", work)
    resumed = bench()
    for _ in range(2):
        resumed.step("first", work), resumed.step("second", work), resumed.shared(model, "halves", work)
    spent = resumed.spent(0.3)  # of which 0.2 s went into the second step
    assert spent.own == pytest.approx(0.5, abs=0.05) and spent.models == pytest.approx(0.2, abs=0.05)


@pytest.mark.data
@pytest.mark.slow
def test_an_interrupted_run_leaves_whole_files_alone_and_goes_on(tmp_path: Path, found: dict[str, Any]) -> None:
    out = tmp_path / "study"
    line = ["reproduce", "first_order", "--quick", "--quiet", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "proponent.cli", *line], stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(out.rglob("steps-*/*.json")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert process.returncode == INTERRUPTED and "Traceback" not in errors
    assert not list(out.rglob("*.part")) and results(out) == {}
    run(["first_order"], out, None)
    assert without_times(results(out)["first_order"]) == without_times(found["first_order"])


@pytest.mark.data
@pytest.mark.slow
def test_the_command_lists_experiments_and_says_where_results_are(study: Path, data_root: Path) -> None:
    line = CliRunner()
    listed = line.invoke(app, ["reproduce", "list"])
    assert [row.split()[0] for row in listed.output.splitlines()] == list(EXPERIMENTS)
    done = line.invoke(app, ["reproduce", "outlier", "--out", str(study), "--quick", "--data-root", str(data_root)])
    assert done.exit_code == 0 and str(study / "outlier" / "README.md") in done.output
