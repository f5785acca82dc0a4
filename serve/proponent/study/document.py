"""docs/study.md and its figures, of the results of a run.

``python -m proponent.study.document docs [OUT]`` takes result.json and the figures of a run in OUT, where one is
named, into docs/study, and makes the page of what lies there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from proponent.study.inventory import INVENTORY
from proponent.study.pages import study_page
from proponent.study.reproduction import results
from proponent.study.run_file import RESULT


def document(docs: Path) -> str:
    """The page of the results that lie in docs/study."""
    return study_page(results(docs / "study"), "study/")


def take(out: Path, docs: Path) -> None:
    """Copies a run's results, figures and inventory in place of those that docs/study has of the same experiments."""
    for name, result in results(out).items():
        target = docs / "study" / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in (RESULT, *result["files"]):
            shutil.copyfile(out / name / file, target / file)
    shutil.copyfile(out / INVENTORY, docs / "study" / INVENTORY)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for run in map(Path, sys.argv[2:]):
        take(run, folder)
    (folder / "study.md").write_text(document(folder), encoding="utf-8")
