"""The command line on digits, from training to an explanation; commands show examples, errors are one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import proponent
from proponent.cli.docs import pages
from proponent.cli.main import app, main
from proponent.cli.options import CHECK, LIFE, USE, WHAT_IF, byte_size
from proponent.datasets import digits
from proponent.errors import SpecError
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.training.train_preset import PRESETS

DOCS = Path(__file__).parent.parent / "docs"
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command that a test gets wrong may touch a store or a folder of the developer's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROPONENT_STORE", raising=False)


def run(*arguments: str | Path) -> Done:
    """The command line in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["proponent", *map(str, arguments)]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        show = warnings.showwarning
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            warnings.showwarning = show
    return Done(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Digits:
    runs: Path
    store: Path
    image: Path
    trained: Done
    rebuilt: Done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    root = tmp_path_factory.mktemp("digits")
    image, _ = digits.test()[0]
    image.save(root / "digit.png")
    trained = run("train", "digits", "--out", root / "runs", "--limit", "300")
    rebuilt = run("rebuild", root / "runs", "--store", root / "store", "--quiet")
    return Digits(root / "runs", root / "store", root / "digit.png", trained, rebuilt)


def test_the_program_tells_its_version() -> None:
    assert run("--version") == Done(0, f"proponent {proponent.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_that_names_it(command: str) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert re.search(rf"Example:\s+.*proponent {command}\b", done.out), done.out


def test_help_names_the_commands_in_the_order_of_use_and_is_shown_without_arguments() -> None:
    order = [
        "train",
        "rebuild",
        "serve",
        "token",
        "explain",
        "score",
        "removal",
        "flip",
        "report",
        "audit",
        "reproduce",
        "doctor",
        "health",
        "verify",
        "diff",
        "info",
    ]
    order += ["suspects", "publish", "rollback", "load", "unload", "forget", "gc"]
    assert sorted(order) == COMMANDS
    for done in (run(), run("--help")):
        text = done.out + done.err
        assert re.findall(r"^│ (\w+) ", text, flags=re.MULTILINE) == order
        panels = [USE, WHAT_IF, CHECK, LIFE]
        assert re.findall(r"^╭─ (.*?) ─+╮$", text, flags=re.MULTILINE) == ["Options", *panels]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_states_its_exit_codes(command: str) -> None:
    assert {"0", "1", "2"} < set(stated_exit_codes(command))


def stated_exit_codes(command: str) -> list[str]:
    text = " ".join(run(command, "--help").out.split())
    return re.findall(r"[:;] (\d+) ", text[text.index("Exit codes:") :])


@pytest.mark.parametrize("page", ["cli.md", "settings.md"])
def test_the_pages_made_of_the_code_are_up_to_date(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == pages()[page], "run scripts/docs"


def test_presets_are_listed() -> None:
    assert run("train", "list").out.split() == list(PRESETS)
    assert not Path("nowhere").exists()


def test_training_says_how_good_and_where(made: Digits) -> None:
    assert made.trained.code == 0, made.trained.err
    assert re.search(r"training accuracy 0\.9\d+, held-out accuracy 0\.\d+", made.trained.out)
    assert f"spec: {made.runs / 'explain.yaml'}" in made.trained.out
    assert yaml.safe_load((made.runs / "explain.yaml").read_text())["name"] == "digits"


def test_a_rebuild_says_what_it_made(made: Digits) -> None:
    assert made.rebuilt.code == 0, made.rebuilt.err
    bundle = Store(made.store).current("digits")
    manifest = read_manifest(bundle)
    assert f"bundle: {bundle}" in made.rebuilt.out
    assert f"300 examples, K = {manifest.embedding_size}, curvature exact" in made.rebuilt.out


def test_info_describes_the_bundle_for_people_and_for_programs(made: Digits) -> None:
    told = json.loads(run("info", "--store", made.store, "--json").out)
    assert (told["model"], told["train_size"], told["curvature"]) == ("digits", 300, "exact")
    assert told["digest"] == Store(made.store).current("digits").name
    lines = run("info", "--store", made.store, "--model", "digits").out.splitlines()
    assert "train_size           300" in lines


def test_an_explanation_for_programs(made: Digits) -> None:
    done = run("explain", made.image, "--store", made.store, "--top-k", "4", "--json")
    answer = json.loads(done.out)
    assert [len(result["proponents"]) for result in answer["results"]] == [4, 4, 4]
    assert answer["prediction"]["label"] == str(digits.test()[0][1])
    first = answer["results"][0]["proponents"][0]
    assert first["example_id"].startswith("digits-") and first["score"] > 0 and first["thumbnail"]


def test_an_explanation_for_people(made: Digits) -> None:
    done = run("explain", made.image, "--store", made.store, "--top-k", "2", "--measure", "influence")
    answer = json.loads(
        run("explain", made.image, "--store", made.store, "--top-k", "2", "--measure", "influence", "--json").out
    )
    assert done.code == 0
    assert f"prediction: {answer['prediction']['label']}" in done.out
    [result] = answer["results"]
    for influence in result["proponents"] + result["opponents"]:
        assert influence["example_id"] in done.out and f"{influence['score']:+.4g}" in done.out


@pytest.mark.parametrize(
    ("solver", "residual", "error", "norms"),
    [("cg", 1e-4, 1e-3, 300), ("lissa", 0.3, 0.3, 30), ("arnoldi", 0.3, 0.3, 30)],
)
def test_a_solver_finds_what_the_index_says(
    made: Digits, solver: str, residual: float, error: float, norms: int
) -> None:
    measures = [word for name in ("influence", "theta-relatif", "l-relatif") for word in ("--measure", name)]
    options = ("--class-id", "3", "--against", "8", "--json", *measures)
    index, solved = (
        json.loads(run("explain", made.image, "--store", made.store, *options, *more).out)
        for more in (("--top-k", "300"), ("--top-k", "20", "--solver", solver, "--solver-norms", str(norms)))
    )
    assert solved["solve"]["solver"] == solver and 0 < solved["solve"]["residual"] <= residual
    assert solved["solve"]["norms"] == norms and 0 < solved["solve"]["norms_residual"] <= 2 * residual
    for place, side in itertools.product(range(3), ("proponents", "opponents")):
        expected, found = (
            {i["example_id"]: i["score"] for i in each["results"][place][side]} for each in (index, solved)
        )
        if place == 0 or norms == 300:
            assert len(found) == 20 and len(set(list(expected)[:20]) & found.keys()) >= 20 * (1 - error)
        largest = max(map(abs, expected.values()))
        wanted = {name: pytest.approx(expected[name], abs=(2 if place else 1) * error * largest) for name in found}
        assert len(found) >= 3 and found == wanted


def test_relatif_by_a_solver_ranks_the_most_influential_of_both_ends_alone(made: Digits) -> None:
    asked = ("--class-id", "3", "--against", "8", "--merged")
    influence, local = (
        {i["example_id"] for side in ("proponents", "opponents") for i in result.get(side, [])}
        for result in solved(made, "--measure", "l-relatif", "--solver-norms", "7", *asked)["results"]
    )
    strongest = solved(made, "--top-k", "7", *asked)["results"][0]
    assert local == {i["example_id"] for side in ("proponents", "opponents") for i in strongest[side]} < influence


def test_a_solver_tells_its_time_and_leaves_out_what_is_forgotten(made: Digits, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(made.store, store)
    assert "digits-0083" in run("explain", made.image, "--store", store, "--solver", "cg").out
    assert run("forget", "digits-0083", "--store", store).code == 0
    done = run("explain", made.image, "--store", store, "--solver", "cg")
    told = r"cg: hessian of 299 examples with damping 0, relative residual [\d.]+e-\d+, [\d.]+ s\n$"
    assert re.search(told, done.out) and "digits-0083" not in done.out


def solved(made: Digits, *more: str) -> dict[str, Any]:
    line = ("explain", made.image, "--store", made.store, "--top-k", "20", "--measure", "influence", "--json")
    answer: dict[str, Any] = json.loads(run(*line, "--solver", "cg", *more).out)
    return answer


def test_a_solve_may_end_early_and_take_the_curvature_of_a_sample(made: Digits) -> None:
    whole, short, sampled = (
        solved(made, *more)["solve"] for more in ((), ("--solver-steps", "3"), ("--solver-examples", "60"))
    )
    assert whole["examples"] == short["examples"] == 300 and sampled["examples"] == 60
    assert short["residual"] > 10 * whole["residual"] and sampled["residual"] <= 1e-4


def test_what_a_solver_may_take_needs_a_solver(made: Digits) -> None:
    done = run("explain", made.image, "--store", made.store, "--solver-steps", "5")
    assert done.code != 0 and "solver_steps is 5, but no solver is named" in done.err


@pytest.mark.parametrize("solver", [(), ("--solver", "cg")], ids=["index", "solver"])
def test_a_list_of_no_examples_is_refused(made: Digits, solver: Sequence[str]) -> None:
    done = run("explain", made.image, "--store", made.store, "--top-k", "-3", *solver)
    assert done.code != 0 and "top_k is -3, expected at least 1" in done.err


def test_what_a_solver_holds_at_once_is_bound_by_memory_and_changes_nothing(
    made: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 256 examples of a large network would take tens of gigabytes."""
    whole = solved(made, "--measure", "theta-relatif")["results"]
    sizes, read = [], TrainingSet.batch

    def noted(self: TrainingSet, positions: Sequence[int]) -> Batch:
        sizes.append(len(positions))
        return read(self, positions)

    monkeypatch.setattr(TrainingSet, "batch", noted)
    monkeypatch.setattr("proponent.inspection.objective.MEMORY", 1 << 20)
    found = solved(made, "--measure", "theta-relatif")["results"]
    assert 1 < max(sizes) < 64
    for one, other in zip(
        *([*each[0]["proponents"], *each[1]["proponents"]] for each in (whole, found)), strict=True
    ):
        assert one["example_id"] == other["example_id"] and one["score"] == pytest.approx(other["score"], rel=1e-5)


def test_a_contrast_is_explained(made: Digits) -> None:
    done = run("explain", made.image, "--store", made.store, "--class-id", "3", "--against", "8", "--json")
    assert json.loads(done.out)["target_class_id"] == 3


def test_one_list_by_magnitude(made: Digits) -> None:
    line = ("explain", made.image, "--store", made.store, "--merged", "--measure", "influence", "--top-k", "4")
    [result] = json.loads(run(*line, "--json").out)["results"]
    ranked = sorted((*result.get("proponents", []), *result.get("opponents", [])), key=lambda each: each["rank"])
    sizes = [abs(each["score"]) for each in ranked]
    assert [each["rank"] for each in ranked] == [1, 2, 3, 4] and sizes == sorted(sizes, reverse=True)
    assert "│ 4 │" in run(*line).out and "opponent" not in run(*line).out


def test_a_rebuild_for_programs_that_is_not_published(made: Digits, tmp_path: Path) -> None:
    done = run("rebuild", made.runs, "--store", tmp_path, "--quiet", "--no-publish", "--json", "--memory", "1GiB")
    told = json.loads(done.out)
    assert Path(told["bundle"]).name == told["digest"]
    assert Store(tmp_path).models() == []


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["rebuild", "nothing.yaml"], 3, r"spec not found: /.*nothing\.yaml \[NOT_FOUND\]"),
        (["info", "--store", "nowhere"], 3, r"store not found: /.*nowhere .* \[NOT_FOUND\]"),
        (["info", "--store", "{store}", "--model", "cats"], 3, r"no bundle for model 'cats' .*\(models: digits\)"),
        (["explain", "lost.png", "--store", "{store}"], 3, r"image not found: /.*lost\.png"),
        (["explain", "{spec}", "--store", "{store}"], 2, r"not a PNG or JPEG image \[IMAGE_UNREADABLE\]"),
        (["explain", "{image}", "--store", "{store}", "--top-k", "0"], 2, r"top_k is 0.*\[TOP_K_OUT_OF_RANGE\]"),
        (["explain", "{image}", "--store", "{store}", "--measure", "cosine"], 2, "measure 'cosine' is unknown"),
        (
            ["explain", "{image}", "--store", "{store}", "--class-id", "10"],
            2,
            r"class 10 is unknown, expected 0\.\.9",
        ),
        (["explain", "{image}", "--store", "{store}", "--against", "1"], 2, "a contrast needs the class argued for"),
        (
            ["explain", "{image}", "--store", "{store}", "--solver", "lu"],
            2,
            "solver 'lu' is unknown, expected one of cg",
        ),
        (
            ["explain", "{image}", "--store", "{store}", "--solver", "cg", "--diverse", "mmd"],
            2,
            "a solver answers without filters and diverse selection",
        ),
        (["rebuild", "{spec}", "--memory", "lots"], 2, r"--memory has value 'lots', expected a size, e\.g\. 8GiB"),
        (["rebuild", "{spec}", "--memory", "-1"], 2, "--memory has value '-1'"),
        (["train", "cats", "--out", "x"], 3, "Unknown preset 'cats', expected one of digits"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(made: Digits, arguments: list[str], code: int, expected: str) -> None:
    places = {"store": made.store, "image": made.image, "spec": made.runs / "explain.yaml"}
    done = run(*(argument.format(**places) for argument in arguments))
    assert done.code == code and str(code) in stated_exit_codes(arguments[0])
    assert done.out == "" and done.err.startswith("error: ") and len(done.err.splitlines()) == 1, done.err
    assert re.search(expected, done.err), done.err


def test_a_damaged_bundle_is_told_by_file_and_exit_code(made: Digits, tmp_path: Path) -> None:
    run("rebuild", made.runs, "--store", tmp_path, "--quiet")
    rows = Store(tmp_path).current("digits") / "rows.faiss"
    rows.write_bytes(rows.read_bytes()[:-1])
    done = run("explain", made.image, "--store", tmp_path)
    assert done.code == 4 and str(rows) in done.err and "[BUNDLE_CORRUPT]" in done.err


def test_usage_errors_have_exit_code_2() -> None:
    for arguments in (["rebuild"], ["nonsense"], ["train"], ["explain", "x.png", "--top-k", "many"]):
        assert run(*arguments).code == 2


def test_warnings_are_one_line_on_standard_error(made: Digits, tmp_path: Path) -> None:
    content = yaml.safe_load((made.runs / "explain.yaml").read_text())
    weights = str(made.runs / content["weights"])
    (tmp_path / "explain.yaml").write_text(yaml.safe_dump({**content, "weights": weights, "weight_decay": 1.0}))
    done = subprocess.run(
        [sys.executable, "-m", "proponent.cli", "rebuild", tmp_path, "--store", tmp_path / "store", "--quiet"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"warning: the objective's gradient norm is .*\n", done.stderr), done.stderr
    assert done.stdout.startswith("bundle: ")


@pytest.mark.parametrize(
    ("text", "expected"), [("1000000", 10**6), ("8GiB", 8 << 30), ("500MB", 500 * 10**6), ("1.5 kib", 1536)]
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert byte_size(text, "--memory") == expected


@settings(deadline=None)
@given(st.text(max_size=8) | st.sampled_from(["inf", "nan", "1e999", "-1", "0", "-8GiB", "GiB", "8 XB", "9" * 400]))
def test_any_other_size_is_refused_or_positive(text: str) -> None:
    try:
        assert byte_size(text, "--memory") > 0
    except SpecError as error:
        assert repr(text) in error.message and error.field == "memory"
