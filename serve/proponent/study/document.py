"""Makes docs/study.md of docs/study/NAME/result.json: ``python -m proponent.study.document docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from proponent.study.pages import study_page
from proponent.study.reproduction import results


def document(docs: Path) -> str:
    """The page of the results that are committed."""
    return study_page(results(docs / "study"), "study/")


if __name__ == "__main__":
    (Path(sys.argv[1]) / "study.md").write_text(document(Path(sys.argv[1])), encoding="utf-8")
