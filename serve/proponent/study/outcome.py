"""What an experiment finds: a table, figures, and claims that hold or do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Claim:
    """One claim, and what was found.

    Attributes:
        claim: What is claimed.
        paper: The paper's figure, or empty where it gives none.
        ours: The figure found here.
        holds: Whether it holds; None where the figures do not decide it.
        why: What explains the outcome.
    """

    claim: str
    paper: str
    ours: str
    holds: bool | None
    why: str


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows, for those who do not see it."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Outcome:
    """What an experiment gives.

    Attributes:
        setting: Model, data and choices, in sentences.
        columns: Head of the table.
        rows: Its cells.
        paragraph: What was found, in sentences.
        claims: What was decided.
        pictures: By file name without an ending.
        values: Figures behind the table, plain JSON.
    """

    setting: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    paragraph: str
    claims: Sequence[Claim] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
