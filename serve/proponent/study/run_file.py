"""What the results in a directory were made by: results of two kinds do not mix."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import proponent
from proponent.datasets.location import ENVIRONMENT_VARIABLE
from proponent.errors import InvalidInputError, NotFoundError
from proponent.study.registry import EXPERIMENTS
from proponent.study.workbench import write_whole

RUN = "run.json"
RESULT = "result.json"


def check_run(out: Path, *, quick: bool, data_root: Path | None) -> None:
    """Refuses to add results to those of another mode, version or data root, and notes what these are.

    Raises:
        InvalidInputError: ``out`` is a file, or holds results of another kind.
        NotFoundError: ``data_root`` is not a directory.
    """
    if data_root is not None and not data_root.is_dir():
        raise NotFoundError(
            f"data root {data_root} is not a directory, expected the folder of the data sets",
            field="data_root",
            reason="DATA_MISSING",
        )
    if out.exists() and not out.is_dir():
        raise InvalidInputError(f"{out} is a file, expected the directory of the results", field="out")
    known, now = _noted(out), _kind(quick, data_root)
    for key, value in now.items():
        if known.get(key, value) != value and value and known[key]:
            kept = f"{out} holds results of {key} {known[key]}"
            raise InvalidInputError(f"{kept}, and these would be of {key} {value}: choose another --out", field="out")
    write_whole(out / RUN, {key: value or known.get(key, "") for key, value in now.items()})


def _kind(quick: bool, data_root: Path | None) -> dict[str, str]:
    root = data_root or os.environ.get(ENVIRONMENT_VARIABLE)
    return {
        "mode": "quick" if quick else "study",
        "version": proponent.__version__,
        "data root": str(Path(root).absolute()) if root else "",
    }


def _noted(out: Path) -> Mapping[str, str]:
    """What the directory says of its results; nothing where it has none."""
    path = out / RUN
    if path.exists():
        noted: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return noted
    if any((out / name / RESULT).exists() for name in EXPERIMENTS):
        raise InvalidInputError(
            f"{out} holds results, but no {RUN} says of which version: choose another --out", field="out"
        )
    return {}
