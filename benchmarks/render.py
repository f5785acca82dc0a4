"""The pages of docs/ that are made of measured figures: every table and figure comes from a file in results/.

Run: ``python benchmarks/render.py``, after a benchmark; ``benchmarks/all`` does it at its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import load_page
import scale_page
import sizing_page
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
PAGES = ("performance.md", "sizing.md", "scale.md")


def main() -> None:
    """Writes them all."""
    for name in PAGES:
        (DOCS / name).write_text(page(name, results()), encoding="utf-8")


def results(directory: Path = RESULTS) -> dict[str, Any]:
    """What every benchmark found last, by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}


def page(name: str, found: Mapping[str, Any]) -> str:
    """One page; UndefinedError where it tells of something that was not measured."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {
        "fixed": fixed,
        "thousands": "{:,}".format,
        "short": "{:g}".format,
        "digits": lambda value, count: f"{value:.{count}g}",
        "amount": sizing_page.amount,
        "zip": lambda left, right: list(zip(left, right, strict=True)),
        "best": _best,
        "percent": lambda share: f"{100 * share:.0f} %",
        "interval": _interval,
    }
    sizing = sizing_page.figures(found["sizing"])
    return environment.get_template(f"{name}.j2").render(
        results=found,
        load_tables=load_page.section,
        sizing=sizing,
        scale_of=scale_page.figures,
        ratios_of=scale_page.ratios,
    )


def fixed(value: float, digits: int) -> str:
    """With so many digits after the point, thousands separated."""
    return f"{value:,.{digits}f}"


def _best(scores: Mapping[str, float]) -> str:
    """The highest score and what it belongs to."""
    name = max(scores, key=scores.__getitem__)
    return f"{scores[name]:.3f} ({name})"


def _interval(check: Mapping[str, Any], digits: int) -> str:
    """A mean with its 95 % interval."""
    low, high = (fixed(end, digits) for end in check["interval_95"])
    return f"{fixed(check['mean'], digits)} (95 % {low}..{high})"


if __name__ == "__main__":
    main()
