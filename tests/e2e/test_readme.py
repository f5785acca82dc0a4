"""The README is run, command by command: what a newcomer copies must work as written.

Commands are collected, not listed: lines of ``sh`` blocks, ``$`` lines of ``console`` blocks, and every code span
that begins with a program. A new one is run as soon as it is written.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from running import RunningGateway

import tiny
from proponent.datasets import digits as digits_data
from proponent.index.store import Store
from proponent.spec import load_spec

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = r"^```(\w*)\n(.*?)^```"
PROGRAMS = ("proponent ", ".venv/bin/", "scripts/", ".ci/", "curl ", "python ")
RUN_ALL_TESTS = ("scripts/test", "scripts/check", ".ci/run")
"""These would run this very test: only looked at."""
DEMO = "scripts/demo"


def blocks(language: str) -> list[str]:
    found = re.findall(FENCE, README, flags=re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def commands() -> Iterator[str]:
    """Everything in the README that a reader may type, in order and without comments."""
    for match in re.finditer(rf"{FENCE}|`([^`]+)`", README, flags=re.MULTILINE | re.DOTALL):
        language, content, span = match.groups()
        if language == "sh":
            yield from (line.partition(" #")[0].strip() for line in content.splitlines())
        elif language == "console":
            yield from (line.removeprefix("$ ") for line in content.splitlines() if line.startswith("$ "))
        elif span and (text := " ".join(span.split())).startswith(PROGRAMS):
            yield text


COMMANDS = list(dict.fromkeys(commands()))


def run(command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory from which the README's relative paths hold, after its steps from training to serving."""
    root = tmp_path_factory.mktemp("readme")
    (root / ".venv" / "bin").mkdir(parents=True)
    script = root / ".venv" / "bin" / "proponent"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m proponent.cli "$@"\n')
    script.chmod(0o755)
    digits_data.test()[0][0].save(root / "digit.png")
    for command in blocks("sh")[1].splitlines():
        run(command, root)
    return root


@pytest.fixture(scope="module")
def placeholders(elsewhere: Path) -> dict[str, str]:
    """What a reader puts in place of words in capitals; a second bundle is there to compare and to go back to."""
    first = Store(elsewhere / "model_store").current("digits").name
    run(".venv/bin/proponent rebuild runs/digits --damping 0.01", elsewhere)
    training = {"factory": "proponent.training:fit", "kwargs": {"optimizer": "lbfgs", "epochs": 20}}
    spec = tiny.project(
        elsewhere / "own", model="grouped", curvature={"kind": "ekfac", "embedding_size": 40}, training=training
    )
    tiny.change(spec, held_out=load_spec(spec).dataset.model_dump(), expected_accuracy=0.0)
    return {"IMAGE": "digit.png", "SPEC": str(spec), "DIGEST": first, "ID": "digits-0012"}


def test_the_first_forty_lines_show_real_output() -> None:
    top = "\n".join(README.splitlines()[:40])
    assert "scripts/demo" in top
    assert "prediction: 3 (88.8%)" in top
    assert "digits-0226" in top


def test_everything_that_can_be_run_is_collected() -> None:
    """Each way of writing a command down is found; a block of another language would need a test of its own."""
    assert {f"{DEMO} --once", "proponent train list", "proponent explain IMAGE", "scripts/rebuild_index SPEC"} < set(
        COMMANDS
    )
    assert any(command.startswith(".venv/bin/proponent audit") for command in COMMANDS)
    assert any(command.startswith("curl ") for command in COMMANDS)
    languages = [name for name, _ in re.findall(FENCE, README, flags=re.MULTILINE | re.DOTALL)]
    assert set(languages) == {"console", "sh", "yaml", "python", ""}
    assert (languages.count("yaml"), languages.count("python")) == (1, 1)


@pytest.mark.slow
def test_the_demo_prints_what_the_readme_shows(elsewhere: Path) -> None:
    options = f"--once --runs {elsewhere}/demo-runs --store {elsewhere}/demo-store"
    # A shell's background jobs ignore SIGINT: the service must end all the same.
    output = run(f"trap '' INT; {ROOT}/{DEMO} {options}", ROOT)
    shown = blocks("console")[0].splitlines()
    for line in shown:
        if line.startswith(("prediction", "  MEASURE", "│ 1 │", "│   │  ..######")):
            assert line in output


@pytest.mark.slow
def test_the_demo_of_rows_needs_no_file_and_says_so(elsewhere: Path) -> None:
    options = f"--table --once --runs {elsewhere}/demo-rows --store {elsewhere}/demo-rows-store"
    output = run(f"{sys.executable} -m proponent.cli.demo {options}", ROOT, PROPONENT_DATA="")
    assert "loans that are drawn from a seed" in output
    assert re.search(r"^prediction: (repaid|defaulted)", output, re.MULTILINE) and "loans-0-" in output
    assert re.search(r"\(not |same: ", output)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(DEMO)])
def test_every_command_runs(
    command: str, elsewhere: Path, placeholders: dict[str, str], request: pytest.FixtureRequest
) -> None:
    program = command.split()[0]
    if command.startswith(RUN_ALL_TESTS):
        assert os.access(ROOT / program, os.X_OK)
        return
    if command.startswith("proponent serve"):
        _serves(command, elsewhere)
        return
    own_store = {"PROPONENT_STORE": str(elsewhere / "own_store")} if "SPEC" in command.split() else {}
    words = [placeholders.get(word, word) for word in command.split()]
    filled = " ".join(words) if own_store or set(words) != set(command.split()) else command
    if program == "proponent":
        filled = f".venv/bin/{filled}"
    elif program == "curl":
        service: RunningGateway = request.getfixturevalue("service")
        filled = filled.replace("http://127.0.0.1:8080", service.http_url).replace("curl", "curl --silent --fail")
    elif program.startswith("scripts/"):
        filled = f"{ROOT}/{filled}"
    _as_described(command, run(filled, elsewhere, **own_store))


def _serves(command: str, elsewhere: Path) -> None:
    """The command itself with free ports: it becomes ready, and ends when it is told to."""
    store, *options = shlex.split(command)[2:]
    gateway = RunningGateway(elsewhere / store, elsewhere / "serve.log", *options)
    try:
        gateway.wait_ready()
        gateway.stop()
    finally:
        gateway.close()


def _as_described(command: str, output: str) -> None:
    """What the README says of a command's output."""
    if " audit " in command:
        assert all(check in output for check in ("lds", "leave_one_out", "label_noise", "solver"))
    elif " info " in command:
        assert "embedding_size       650" in output
    elif command == "proponent train list":
        assert {"digits", "mnist-cnn", "cifar10-resnet20"} <= set(output.split())
    elif command.startswith("curl"):
        assert '"digits-0226"' in output


def test_the_spec_of_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "explain.yaml").write_text(blocks("yaml")[0])
    spec = load_spec(tmp_path)
    assert spec.name == "digits"
    assert yaml.safe_load(blocks("yaml")[0])["loss"] == spec.loss


def test_the_python_client_of_the_readme_gets_an_answer(
    elsewhere: Path, service: RunningGateway, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elsewhere)
    exec(compile(blocks("python")[0].replace("127.0.0.1:8500", service.grpc_address), "README.md", "exec"), {})
    assert capfd.readouterr().out.startswith("3 ['digits-0226'")
