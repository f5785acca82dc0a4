"""The pages: a whole report, and its parts on their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from proponent.display.marks import HINT
from proponent.display.page import Pictures, render, stream
from proponent.display.sentences import METHODS, SIGN
from proponent.errors import InvalidInputError
from proponent.explainer import Explainer
from proponent.index.catalog import Page, Suspect
from proponent.index.tombstones import Tombstones
from proponent.reports.answers import Answer, answer_all
from proponent.reports.data import Frequencies, data_view
from proponent.reports.inputs import Input, Unreadable
from proponent.reports.model import model_view
from proponent.reports.writing import pieces_of, set_aside, write_page

SUSPECTS = 24
"""Suspects in a report; ``proponent suspects --html`` shows as many as it is asked for."""


@dataclass(frozen=True)
class Entry:
    """An input in the table of contents."""

    number: int
    name: str
    label: str
    likelihood: float
    wrong: bool


class Report:
    """Writes each answer as it comes, and keeps of it what the contents need.

    Args:
        sections: Where the answers are written.
        names: Class names.
    """

    def __init__(self, sections: TextIO, names: list[str]) -> None:
        self._sections = sections
        self._names = names
        self.pictures = Pictures()
        self.frequencies = Frequencies()
        self.contents: list[Entry] = []
        self.unreadable: list[Unreadable] = []

    def add(self, answer: Answer) -> None:
        """Writes an answer."""
        prediction, asked = answer.explanation.prediction, answer.asked
        entry = Entry(len(self.contents) + 1, asked.name, prediction.label, answer.likelihood, answer.wrong)
        self.contents.append(entry)
        self.frequencies.add(answer.columns)
        sign = SIGN.format(label=prediction.label)
        values = {"answer": answer, "number": entry.number, "sign": sign, "names": self._names, "hint": HINT}
        self._sections.write(render("answer.html", **values, picture=self.pictures))


def write_report(
    bundle: Path,
    out: Path,
    inputs: Callable[[Explainer], Iterable[Input | Unreadable]],
    *,
    top_k: int,
    warn: Callable[[Unreadable], None],
    highlight: bool = False,
) -> int:
    """Explains inputs with a bundle and writes the report; gives the number explained.

    Args:
        bundle: The bundle.
        out: The file to write.
        inputs: Reads what is to be explained.
        top_k: Length of each list.
        warn: Told of each input that cannot be read, at once.
        highlight: Whether the words that carry the influence are marked in texts.

    Raises:
        InvalidInputError: None can be read.
        StorageError: The disk is full or read-only.
    """
    explainer = Explainer.load(bundle)
    with set_aside() as sections:
        report = Report(sections, explainer.classifier.class_names)
        for answer in answer_all(explainer, inputs(explainer), top_k, highlight=highlight):
            if isinstance(answer, Unreadable):
                report.unreadable.append(answer)
                warn(answer)
            else:
                report.add(answer)
        _require_some(report)
        page = stream(
            "report.html",
            title=f"Report on {explainer.manifest.model}",
            manifest=explainer.manifest,
            methods=METHODS.values(),
            report=report,
            sections=pieces_of(sections),
            data=data_view(bundle, _suspects(explainer, bundle), frequencies=report.frequencies),
            model=model_view(bundle),
            picture=report.pictures,
        )
        write_page(out, page)
    return len(report.contents)


def _suspects(explainer: Explainer, bundle: Path) -> list[Suspect]:
    return explainer.catalog.label_suspects(SUSPECTS, forgotten=Tombstones.beside(bundle).ids()).suspects


def _require_some(report: Report) -> None:
    if report.contents:
        return
    first = report.unreadable[0]
    raise InvalidInputError(
        f"none of {len(report.unreadable)} inputs can be read; {first.name}: {first.why}", field="inputs"
    )


def write_suspects(bundle: Path, out: Path, page: Page, offset: int) -> None:
    """Writes the training examples as a page, with a page of their suspects that begins behind ``offset`` others."""
    view = data_view(bundle, page.suspects, offset)
    write_page(out, stream("suspects.html", title="Suspects of a wrong label", data=view, picture=Pictures()))


def write_audit(bundle: Path, out: Path) -> None:
    """Writes the model and what audits measured of it as a page."""
    write_page(out, stream("audit.html", title="How faithful the explanations are", model=model_view(bundle)))
