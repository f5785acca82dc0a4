"""The README is run, block by block: what a newcomer copies must work as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from running import RunningGateway

from proponent.datasets import digits as digits_data
from proponent.spec import load_spec

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def run(command: str, cwd: Path) -> str:
    done = subprocess.run(["sh", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory from which the README's relative paths hold, with nothing in it yet."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    script = tmp_path / ".venv" / "bin" / "proponent"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m proponent.cli "$@"\n')
    script.chmod(0o755)
    digits_data.test()[0][0].save(tmp_path / "digit.png")
    return tmp_path


def test_the_first_forty_lines_show_real_output() -> None:
    top = "\n".join(README.splitlines()[:40])
    assert "scripts/demo" in top
    assert "prediction: 3 (88.8%)" in top
    assert "digits-0226" in top


def test_the_two_commands_exist_and_are_the_ones_described() -> None:
    commands = [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert commands == ["scripts/demo --once", "scripts/test"]
    for command in commands:
        assert os.access(ROOT / command.split()[0], os.X_OK)


@pytest.mark.slow
def test_the_demo_prints_what_the_readme_shows(elsewhere: Path) -> None:
    options = f"--once --runs {elsewhere}/runs --store {elsewhere}/store"
    output = run(f"{ROOT}/scripts/demo {options}", ROOT)
    shown = blocks("console")[0].splitlines()
    for line in shown:
        if line.startswith(("prediction", "  MEASURE", "│ 1 │", "│   │  ..######")):
            assert line in output


def test_the_commands_from_training_to_serving_run_in_order(elsewhere: Path) -> None:
    for command in blocks("sh")[1].splitlines():
        output = run(command, elsewhere)
    assert "embedding_size       650" in output
    audit = run(blocks("sh")[2].strip(), elsewhere)
    for check in ("lds", "leave_one_out", "label_noise", "solver"):
        assert check in audit


def test_the_spec_of_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "explain.yaml").write_text(blocks("yaml")[0])
    spec = load_spec(tmp_path)
    assert spec.name == "digits"
    assert yaml.safe_load(blocks("yaml")[0])["loss"] == spec.loss


def test_the_clients_of_the_readme_get_an_answer(
    elsewhere: Path, service: RunningGateway, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    curl = next(line for line in blocks("console")[1].splitlines() if "curl" in line).removeprefix("$ ")
    reply = run(
        curl.replace("http://127.0.0.1:8080", service.http_url).replace("curl", "curl --silent --fail"), elsewhere
    )
    assert '"digits-0226"' in reply
    monkeypatch.chdir(elsewhere)
    exec(compile(blocks("python")[0].replace("127.0.0.1:8500", service.grpc_address), "README.md", "exec"), {})
    assert capfd.readouterr().out.startswith("3 ['digits-0226'")
