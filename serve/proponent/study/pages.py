"""Pages made of results: the README of an experiment, and the page of the whole study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proponent.study.registry import EXPERIMENTS

_VERDICTS = {True: "holds", False: "does not hold", None: "not decided"}
_QUICK = "These are figures of the quick mode: they show that the code runs, and say nothing about the claims.\n\n"
_HEAD = """# The paper's study, reproduced and extended

<!-- Made by `proponent reproduce` of its results; a test compares it with them. -->

The experiments of the thesis "Influence functions - comparison of existing methods" (2022), run with this project,
and what it planned and could not finish. `proponent reproduce all --out DIR --data-root DATA` makes everything on
this page again. "Holds" speaks of the claim under the settings given here, not in general. What the run left and
took: [inventory]({folder}inventory.md).

How verdicts are found: each rule can say "holds", "does not hold" and "not decided". It looks at 95 % intervals, and
decides nothing where one holds the bound; that something changes nothing, or is accurate, is held against a margin
that stands beside it. A claim of several parts holds where all do, and fails by one that fails. Intervals are of each
claim by itself, so that of many a few may be due to chance.

Figure 1 of the thesis is a chart of statista.com: how much data the world makes by year, which motivates the work. It
is no result and its numbers are not given, so there is nothing of it to reproduce. Figures 2 (activations) and 3 (a
loss with several minima) are drawn again under "Where the loss is not convex", and figure 4, a drawing taken from
Barshan et al. (2020), is measured under "The outlier and the neighbours".

"""


def experiment_page(result: Mapping[str, Any]) -> str:
    """README.md of one experiment."""
    return f"# {result['title']}\n\n{_section(result, '')}"


def study_page(results: Mapping[str, Mapping[str, Any]], folder: str = "") -> str:
    """The page of all results.

    Args:
        results: By name.
        folder: Where the experiments' directories lie, relative to the page; "" or "name/".
    """
    quick = _QUICK if any(result["quick"] for result in results.values()) else ""
    claims = [
        [_linked(result), c["claim"], c["paper"] or "none given", c["ours"], _VERDICTS[c["holds"]], c["why"]]
        for result in results.values()
        for c in result["claims"]
    ]
    overview = table(["part", "claim", "paper", "ours", "outcome", "why"], claims)
    sections = "".join(
        f"\n## {result['title']}\n\n{_section(result, f'{folder}{name}/')}" for name, result in results.items()
    )
    return f"{_HEAD.format(folder=folder)}{quick}{_missing(results)}{_older(results)}{overview}{sections}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars inside of cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _missing(results: Mapping[str, Any]) -> str:
    """Which experiments have no result here."""
    names = ", ".join(f"`{name}` ({each.part})" for name, each in EXPERIMENTS.items() if name not in results)
    return f"Not run yet, at least not here: {names}.\n\n" if names else ""


def _older(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Which results are not of today's code: those that were not asked for since it changed."""
    names = ", ".join(f"`{name}`" for name, result in results.items() if result["code"] != EXPERIMENTS[name].code)
    return f"Of an earlier run, by code that has changed since, are: {names}.\n\n" if names else ""


def _section(result: Mapping[str, Any], folder: str) -> str:
    pictures = "".join(f"\n![{caption}]({folder}{name}.png)\n" for name, caption in result["pictures"].items())
    head = f"{result['part']}{_time(result)}.\n\n"
    body = f"{result['setting']}\n\n{table(result['columns'], result['rows'])}\n{result['paragraph']}\n"
    return f"{head}{body}{pictures}"


def _time(result: Mapping[str, Any]) -> str:
    """What it took."""
    own, models = result["cpu_seconds"], result["models_cpu_seconds"]
    return f"; {own:,.0f} s of processor time, and {models:,.0f} s of the models that it asks for"


def _linked(result: Mapping[str, Any]) -> str:
    anchor = "".join(c for c in result["title"].lower().replace(" ", "-") if c.isalnum() or c == "-")
    return f"[{result['part']}](#{anchor})"
