"""Runs experiments one after another; what was finished by an earlier run is taken as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proponent.errors import InvalidInputError
from proponent.rebuild.progress import StageProgress
from proponent.study.drawing import save_picture
from proponent.study.outcome import Outcome
from proponent.study.pages import experiment_page, study_page
from proponent.study.registry import EXPERIMENTS, Experiment
from proponent.study.workbench import Workbench, finished, write_whole

RESULT = "result.json"
MODE = "mode.json"
MODELS = "models"


def reproduce(
    experiments: Sequence[Experiment],
    out: Path,
    *,
    quick: bool = False,
    data_root: Path | None = None,
    progress: StageProgress,
) -> None:
    """Writes ``out/NAME`` for each experiment: result.json, figures as PNG and SVG, README.md; and ``out/study.md``.

    Args:
        experiments: What to run.
        out: Made if missing. A killed run goes on there.
        quick: Small data, same code.
        data_root: Folder of the data sets; None for PROPONENT_DATA.
        progress: Shows experiments and their steps.

    Raises:
        InvalidInputError: ``out`` holds results of the other mode.
        NotFoundError: A data file is missing.
    """
    out = out.absolute()
    check_mode(out, quick)
    for experiment in progress.track("experiments", experiments, len(experiments)):
        if not (out / experiment.name / RESULT).exists():
            _run(experiment, out, quick, data_root, progress)
    (out / "study.md").write_text(study_page(results(out)), encoding="utf-8")


def check_mode(out: Path, quick: bool) -> None:
    """Refuses to mix quick results with the study's."""
    mode = finished(out / MODE, lambda: {"quick": quick})
    if mode["quick"] != quick:
        was, now = ("quick", "those of the study") if mode["quick"] else ("those of the study", "quick")
        message = f"{out} holds results that are {was}, and these would be {now}: choose another --out"
        raise InvalidInputError(message, field="out")


def results(out: Path) -> dict[str, Any]:
    """The finished results below a directory, in the order of the paper."""
    files = {name: out / name / RESULT for name in EXPERIMENTS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def _run(experiment: Experiment, out: Path, quick: bool, data_root: Path | None, progress: StageProgress) -> None:
    directory = out / experiment.name
    bench = Workbench(directory, out / MODELS, quick=quick, data_root=data_root, progress=progress)
    started = time.process_time()
    outcome = experiment.run(bench)
    for name, picture in outcome.pictures.items():
        save_picture(picture.figure, directory, name)
    result = _result(experiment, outcome, quick, time.process_time() - started)
    (directory / "README.md").write_text(experiment_page(result), encoding="utf-8")
    write_whole(directory / RESULT, result)


def _result(experiment: Experiment, outcome: Outcome, quick: bool, seconds: float) -> Mapping[str, Any]:
    return {
        "name": experiment.name,
        "title": experiment.title,
        "part": experiment.part,
        "quick": quick,
        "cpu_seconds": round(seconds, 1),
        "setting": flowed(outcome.setting),
        "columns": list(outcome.columns),
        "rows": [list(row) for row in outcome.rows],
        "paragraph": flowed(outcome.paragraph),
        "claims": [asdict(claim) for claim in outcome.claims],
        "pictures": {name: picture.caption for name, picture in outcome.pictures.items()},
        "values": outcome.values,
    }


def flowed(text: str) -> str:
    """Paragraphs without line breaks of their own."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
