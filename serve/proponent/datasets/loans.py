"""Loans drawn from a seed: rows of a table that need no file, with a known rule, and planted label noise on request.

The rule: a loan is repaid if the income, less half of the debt and with 10,000 more for who owns a home, is at least
30,000; a debt that is missing counts as none. Age, job and purpose mean nothing, though jobs differ in their incomes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from proponent.errors import InvalidInputError

CLASS_NAMES = ["defaulted", "repaid"]
JOBS: Mapping[str, float] = {"clerk": 28e3, "cook": 24e3, "driver": 26e3, "engineer": 44e3, "nurse": 34e3}
"""Mean income of each."""
PURPOSES = ("car", "education", "furniture", "moving")
LEAST = 30_000
_HOME = 10_000
_SHARE_MISSING = 0.1

Row = dict[str, str | int | bool | None]


class Loans:
    """Labelled rows; ids are ``loans-<seed>-0012``.

    Attributes:
        rows: ``[N]``, values by column.
        labels: ``[N]``, 0 or 1, after label noise.
        clean_labels: ``[N]``, by the rule.
        class_names: Name of each class.
    """

    def __init__(self, rows: list[Row], clean_labels: list[int], labels: list[int], seed: int) -> None:
        self.rows = rows
        self.clean_labels = clean_labels
        self.labels = labels
        self.class_names = list(CLASS_NAMES)
        self._seed = seed

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Row, int]:
        """The row and its label."""
        return dict(self.rows[index]), self.labels[index]

    def example_id(self, index: int) -> str:
        """Unique id."""
        return f"loans-{self._seed}-{index:04d}"

    def source(self, index: int) -> str:
        """The generator and the row's number."""
        return f"synthetic-{self._seed}#{index}"


def loans(count: int = 1000, seed: int = 0, flip_fraction: float = 0.0) -> Loans:
    """Draw rows. They do not depend on ``flip_fraction``.

    Args:
        count: Number of rows N.
        seed: Seed of everything random.
        flip_fraction: Share of labels to turn round, at random.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    if count < 1 or not 0 <= flip_fraction <= 1:
        raise InvalidInputError(
            f"Got count={count}, flip_fraction={flip_fraction}; expected count >= 1, flip_fraction 0..1."
        )
    random = np.random.RandomState(seed)
    drawn = [_drawn(random) for _ in range(count)]
    flipped = set(random.permutation(count)[: round(flip_fraction * count)].tolist())
    clean = [label for _, label in drawn]
    labels = [1 - label if index in flipped else label for index, label in enumerate(clean)]
    return Loans([row for row, _ in drawn], clean, labels, seed)


def is_repaid(income: float, debt: float | None, owns_home: bool) -> bool:
    """The rule.

    >>> is_repaid(32_000, debt=3_000, owns_home=False), is_repaid(32_000, debt=6_000, owns_home=False)
    (True, False)
    """
    return income - (debt or 0) / 2 + (_HOME if owns_home else 0) >= LEAST


def _drawn(random: np.random.RandomState) -> tuple[Row, int]:
    """A row and what the rule says of it."""
    job = list(JOBS)[random.randint(len(JOBS))]
    income = max(8_000, 100 * round(random.normal(JOBS[job], 8e3) / 100))
    debt = None if random.uniform() < _SHARE_MISSING else 100 * round(random.exponential(8e3) / 100)
    owns_home = bool(random.uniform() < 0.4)
    row: Row = {
        "age": int(random.randint(21, 68)),
        "job": job,
        "income": income,
        "debt": debt,
        "owns_home": owns_home,
        "purpose": PURPOSES[random.randint(len(PURPOSES))],
    }
    return row, int(is_repaid(income, debt, owns_home))
