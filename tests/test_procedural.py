"""The sentences and loans that need no file follow the rule that they state, and are the same for the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from proponent.datasets.loans import LEAST, loans
from proponent.datasets.sentences import BAD, GOOD, sentences
from proponent.errors import InvalidInputError

SETS: list[Callable[..., Any]] = [sentences, loans]


def said(text: str) -> int:
    """What a sentence says by the stated rule, read off its words."""
    last = re.split(r" , but | and ", text)[-1].split()
    [opinion] = [word for word in last if word in GOOD + BAD]
    return int((opinion in GOOD) != bool({"not", "never"} & set(last)))


def test_the_last_clause_decides_and_not_turns_it_round() -> None:
    drawn = sentences(500)
    assert [said(text) for text in drawn.inputs] == list(drawn.clean_labels) == drawn.labels
    by_words = [sum((w in GOOD) - (w in BAD) for w in text.split()) > 0 for text in drawn.inputs]
    agreement = sum(map(int.__eq__, map(int, by_words), drawn.labels)) / len(drawn)
    assert 0.5 < agreement < 0.8  # counting words is not the rule


def test_a_loan_is_repaid_by_income_debt_and_home() -> None:
    drawn = loans(500)
    for row, label in zip(drawn.inputs, drawn.clean_labels, strict=True):
        debt = row["debt"] if row["debt"] is not None else 0
        assert label == (row["income"] - debt / 2 + 10_000 * (row["home"] == "owned") >= LEAST)  # type: ignore[operator]
    assert 100 < sum(drawn.labels) < 400
    assert any(row["debt"] is None for row in drawn.inputs)


@pytest.mark.parametrize("draw", SETS)
def test_a_seed_means_one_set_and_noise_turns_labels_alone(draw: Callable[..., Any]) -> None:
    clean, same, noisy, other = draw(200), draw(200), draw(200, flip_fraction=0.1), draw(200, seed=1)
    assert list(clean) == list(same)
    assert [noisy[i][0] for i in range(200)] == [clean[i][0] for i in range(200)] != [other[i][0] for i in range(200)]
    assert sum(a != b for a, b in zip(noisy.labels, noisy.clean_labels, strict=True)) == 20
    assert len({clean.example_id(i) for i in range(200)} | {other.example_id(i) for i in range(200)}) == 400


@pytest.mark.parametrize("draw", SETS)
@pytest.mark.parametrize("options", [{"count": 0}, {"flip_fraction": 1.5}])
def test_options_out_of_range_are_named(draw: Callable[..., Any], options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=rf"{next(iter(options))}={next(iter(options.values()))}"):
        draw(**options)
