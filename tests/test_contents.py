"""What a bundle keeps of texts and rows: as they are where they are short, cut with a mark where not, never more."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proponent.index.catalog import LONGEST_TEXT
from proponent.rebuild.contents import LONGEST_VALUE, Content, content_of


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_short_text_is_kept_as_it_is(text: str) -> None:
    assert content_of(text) == Content(text=text)


@pytest.mark.parametrize("extra", [1, 5_000])
def test_a_long_text_is_cut_and_says_so(extra: int) -> None:
    kept = content_of("é" * (LONGEST_TEXT + extra)).text
    assert kept == "é" * LONGEST_TEXT + f"… [cut: 2000 of {LONGEST_TEXT + extra} characters]"


def test_half_a_character_is_kept_as_a_question_mark() -> None:
    assert content_of("a\ud800b").text == "a?b"  # no UTF-8, and so no reply, can hold it


def test_a_row_is_kept_by_column_in_order() -> None:
    raw = {"age": np.int64(39), "gain": np.float32(0.5), "job": "clerk", "old": np.bool_(True), "country": None}
    kept = content_of(raw)
    assert kept == Content(record={"age": 39, "gain": 0.5, "job": "clerk", "old": True, "country": None})
    assert kept.record is not None and list(kept.record) == list(raw)
    assert json.dumps(kept.record)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan")])
def test_what_is_no_finite_number_is_missing(value: float) -> None:
    assert content_of({"age": value}).record == {"age": None}


def test_what_pandas_marks_as_missing_is_missing() -> None:
    row = {"age": pandas.NA, "since": pandas.NaT, "debt": np.float64("nan"), "day": np.datetime64("NaT")}
    assert content_of(row).record == dict.fromkeys(row)


def test_a_long_value_of_a_row_is_cut() -> None:
    record = content_of({"note": "x" * 500}).record
    assert record == {"note": "x" * LONGEST_VALUE + "… [cut: 200 of 500 characters]"}


def test_tensors_by_name_are_not_a_row() -> None:
    assert content_of({"input_ids": torch.tensor([1, 2]), "n": 3}) == Content()


def test_a_picture_is_kept_as_a_thumbnail() -> None:
    assert content_of(Image.new("L", (4, 4))).thumbnail.startswith(b"\x89PNG")
