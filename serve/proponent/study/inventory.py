"""What lies in a run's directory, when each part was finished, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proponent.study.kept import loaded
from proponent.study.pages import table

INVENTORY = "inventory.md"
_HEAD = """# What a run left, and what it took

Made by `proponent reproduce` at the end of a run. Seconds are processor time, over every time that a run was taken up
again. Several experiments ask for the same model, whose seconds are counted for each of them, and once in the sum.

"""


def inventory(out: Path, models: Path, results: Mapping[str, Mapping[str, Any]]) -> str:
    """A page of the files of each experiment and of each model below a run's directory, with times.

    Args:
        out: The run's directory.
        models: Where in it the models are.
        results: Of the finished experiments, by name.
    """
    own = sum(result["cpu_seconds"] for result in results.values())
    shared = {directory.name: _seconds(directory) for directory in sorted(models.glob("*/"))}
    total = f"{len(results)} experiments, {own:,.0f} s of their own and {sum(shared.values()):,.0f} s of models.\n\n"
    experiments = table(
        ["experiment", "own seconds", "its models' seconds", "finished (UTC)"],
        [_experiment(out, result) for result in results.values()],
    )
    files = table(
        ["file", "bytes", "written (UTC)"],
        [_file(out, path) for name in results for path in sorted((out / name).glob("*")) if path.is_file()],
    )
    made = table(
        ["model", "seconds", "bytes"], [[name, f"{of:,.0f}", _bytes(models / name)] for name, of in shared.items()]
    )
    return f"{_HEAD}{total}{experiments}\n{made}\n{files}"


def _experiment(out: Path, result: Mapping[str, Any]) -> list[str]:
    seconds = (f"{result[key]:,.0f}" for key in ("cpu_seconds", "models_cpu_seconds"))
    return [result["name"], *seconds, _written(out / result["name"] / "result.json")]


def _file(out: Path, path: Path) -> list[str]:
    return [path.relative_to(out).as_posix(), f"{path.stat().st_size:,}", _written(path)]


def _written(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(model: Path) -> float:
    """Of the training, the indexes and what else is kept with a model."""
    kept = (loaded(path) for path in model.glob("*.json"))
    return sum(float(of["cpu_seconds"]) for of in kept if of and "value" in of)


def _bytes(model: Path) -> str:
    return f"{sum(path.stat().st_size for path in model.rglob('*') if path.is_file()):,}"
