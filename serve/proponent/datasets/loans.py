"""Loans drawn from a seed: rows of a table that need no file, with a known rule, and planted label noise on request.

The rule: a loan is repaid if the income, less half of the debt and plus 10,000 where the home is owned, is at least
30,000; a debt that is missing counts as none. Age, job and purpose mean nothing, though jobs differ in their incomes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from proponent.datasets.drawn import Drawn, drawn
from proponent.datasets.examples import Examples

CLASS_NAMES = ["defaulted", "repaid"]
JOBS: Mapping[str, float] = {"clerk": 28e3, "cook": 24e3, "driver": 26e3, "engineer": 44e3, "nurse": 34e3}
"""Mean income of each."""
HOMES = ("owned", "rented")
PURPOSES = ("car", "education", "furniture", "moving")
LEAST = 30_000
_OWNED = 10_000
_SHARE_OWNED, _SHARE_MISSING = 0.4, 0.1

Row = dict[str, str | float | bool | None]


TRAINED, HELD_OUT = 1_200, 200
MISTAKES = 0.04
"""Share of the training labels that are turned round."""


def train(limit: int | None = None) -> Examples[Row]:
    """The 1,200 training loans, of whose labels some are wrong, or the first ``limit`` of them."""
    return loans(TRAINED, 0, MISTAKES).take(range(TRAINED)[:limit])


def test(limit: int | None = None) -> Examples[Row]:
    """The 200 held-out loans, or the first ``limit`` of them."""
    return loans(HELD_OUT, 1).take(range(HELD_OUT)[:limit])


def loans(count: int = 1000, seed: int = 0, flip_fraction: float = 0.0) -> Drawn[Row]:
    """Draw rows; ids are ``loans-<seed>-0012``.

    Args:
        count: Number of rows N.
        seed: Seed of everything random.
        flip_fraction: Share of labels to turn round, at random.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    return drawn("loans", CLASS_NAMES, _loan, count, seed, flip_fraction)


def is_repaid(income: float, debt: float | None, home: str) -> bool:
    """The rule.

    >>> is_repaid(32_000, debt=3_000, home="rented"), is_repaid(32_000, debt=6_000, home="rented")
    (True, False)
    """
    return income - (debt or 0) / 2 + (_OWNED if home == "owned" else 0) >= LEAST


def _loan(_: int, random: np.random.RandomState) -> tuple[Row, int]:
    """A row and what the rule says of it."""
    job = list(JOBS)[random.randint(len(JOBS))]
    income = max(8_000, 100 * round(random.normal(JOBS[job], 8e3) / 100))
    debt = None if random.uniform() < _SHARE_MISSING else 100 * round(random.exponential(8e3) / 100)
    home = HOMES[0] if random.uniform() < _SHARE_OWNED else HOMES[1]
    age, purpose = int(random.randint(21, 68)), PURPOSES[random.randint(len(PURPOSES))]
    row: Row = {"age": age, "job": job, "income": income, "debt": debt, "home": home, "purpose": purpose}
    return row, int(is_repaid(income, debt, home))
