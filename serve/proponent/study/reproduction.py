"""Runs experiments one after another; what was finished by an earlier run is taken as it is."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from proponent.datasets.location import data_file
from proponent.index.bundle import file_sha256
from proponent.index.storage import storage_errors
from proponent.rebuild.progress import StageProgress
from proponent.study.drawing import FORMATS, save_picture
from proponent.study.inventory import INVENTORY, inventory
from proponent.study.kept import read_whole, tell_damaged, write_whole
from proponent.study.outcome import Outcome
from proponent.study.pages import experiment_page, study_page
from proponent.study.registry import EXPERIMENTS, Experiment
from proponent.study.run_file import MODELS, RESULT, check_run, located, only_run
from proponent.study.workbench import Spent, Workbench

_KEYS = (
    *("name", "title", "part", "quick", "code", "cpu_seconds", "models_cpu_seconds", "setting", "columns", "rows"),
    *("paragraph", "claims", "pictures", "values", "files"),
)


def reproduce(
    experiments: Sequence[Experiment],
    out: Path,
    *,
    quick: bool = False,
    data_root: Path | None = None,
    progress: StageProgress,
) -> None:
    """Writes ``out/NAME`` for each experiment (result.json, figures as PNG and SVG, README.md), and pages of all.

    The pages are ``out/study.md`` and ``out/inventory.md``.

    Args:
        experiments: What to run.
        out: Made if missing. A killed run goes on there; an experiment is run again whose code has changed since, or
            of whose files one is missing or damaged (`DamagedWarning`).
        quick: Small data, same code.
        data_root: Folder of the data sets; None for PROPONENT_DATA.
        progress: Shows experiments and their steps.

    Raises:
        InvalidInputError: ``out`` is a file, or holds results of another mode, version or data root.
        NotFoundError: ``data_root`` or a data file is missing, which is told before anything is run.
        BusyError: Another run writes to ``out``.
        StorageError: The directory cannot be made, or the disk is full or read-only.
    """
    out, root = out.absolute(), located(data_root)
    with storage_errors(out), only_run(out):
        check_run(out, quick=quick, data_root=root)
        finished = {experiment.name: _finished(experiment, out, quick) for experiment in experiments}
        for file in {file: None for each in experiments if not finished[each.name] for file in each.data}:
            data_file(root, *file)
        for experiment in progress.track("experiments", experiments, len(experiments)):
            result = finished[experiment.name] or _run(experiment, out, quick, root, progress)
            _write_page(out / experiment.name / "README.md", experiment_page(result))
        found = results(out)
        _write_page(out / "study.md", study_page(found))
        _write_page(out / INVENTORY, inventory(out, out / MODELS, found))


def results(out: Path) -> dict[str, Any]:
    """The finished results below a directory, in the order of the paper."""
    found = {name: _read(out / name / RESULT, _KEYS) for name in EXPERIMENTS}
    return {name: result for name, result in found.items() if result is not None}


def _read(path: Path, keys: Collection[str]) -> dict[str, Any] | None:
    """A result that can be shown; None where there is none, with a warning where it is damaged."""
    result = read_whole(path, keys)
    if result is None:
        return None
    if not _is_shown(path.parent.name, result):
        tell_damaged(path)
        return None
    return result


def _is_shown(name: str, result: Mapping[str, Any]) -> bool:
    """Whether a result is that of its directory, and of values that pages can be made of."""
    try:
        experiment_page(result)
        study_page({name: result})
        return bool(result["name"] == name) and all(isinstance(of, str) for of in result["files"].values())
    except (TypeError, KeyError, AttributeError, ValueError):
        return False


def _write_page(path: Path, text: str) -> None:
    """Writes a page, unless it stands there."""
    content = text.encode()
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)


def _finished(experiment: Experiment, out: Path, quick: bool) -> Mapping[str, Any] | None:
    """The result of today's code where there is one with all of its figures."""
    directory = out / experiment.name
    result = _read(directory / RESULT, _KEYS)
    if result is None or result["code"] != experiment.code or result["quick"] != quick:
        return None
    whole = [_is_whole(directory / name, digest) for name, digest in result["files"].items()]
    return result if all(whole) else None


def _is_whole(path: Path, digest: str) -> bool:
    if path.is_file() and file_sha256(path) == digest:
        return True
    tell_damaged(path, "damaged" if path.exists() else "missing")
    return False


def _run(
    experiment: Experiment, out: Path, quick: bool, data_root: Path | None, progress: StageProgress
) -> Mapping[str, Any]:
    directory = out / experiment.name
    bench = Workbench(
        directory, out / MODELS, code=experiment.code, quick=quick, data_root=data_root, progress=progress
    )
    started = time.process_time()
    outcome = experiment.run(bench)
    for name, picture in outcome.pictures.items():
        save_picture(picture.figure, directory, name)
    spent = bench.spent(time.process_time() - started)
    names = [f"{name}.{kind}" for name in outcome.pictures for kind in FORMATS]
    files = {name: file_sha256(directory / name) for name in names}
    result = {**_result(experiment, outcome, quick, spent), "files": files}
    write_whole(directory / RESULT, result)
    return result


def _result(experiment: Experiment, outcome: Outcome, quick: bool, spent: Spent) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "title": experiment.title,
        "part": experiment.part,
        "quick": quick,
        "code": experiment.code,
        "cpu_seconds": round(spent.own, 1),
        "models_cpu_seconds": round(spent.models, 1),
        "setting": flowed(outcome.setting),
        "columns": list(outcome.columns),
        "rows": [list(row) for row in outcome.rows],
        "paragraph": flowed(outcome.paragraph),
        "claims": [asdict(claim) for claim in outcome.claims],
        "pictures": {name: picture.caption for name, picture in outcome.pictures.items()},
        "values": finite(outcome.values),
    }


def finite(value: Any) -> Any:
    """Figures as JSON can hold them: what is not finite is null."""
    if isinstance(value, Mapping):
        return {name: finite(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(of) for of in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def flowed(text: str) -> str:
    """Paragraphs without line breaks of their own."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
