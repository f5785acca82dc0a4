"""What a demo is about: the data of whoever runs it where there are any, else made-up ones, and it says which."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from proponent.cli.demo import chosen, http_input, parser
from proponent.cli.demo_subjects import Subject, rows, texts
from proponent.client.requests import explain_request
from proponent.options import ExplainOptions
from proponent.text import Text
from proponent.training.presets import PRESETS

LINE = "39, Private, 77516, Bachelors, 13, Divorced, Sales, Husband, White, Male, 0, 0, 40, ?, {}\n"


@pytest.fixture(autouse=True)
def fresh_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROPONENT_DATA", raising=False)


@pytest.mark.parametrize(("choose", "model"), [(texts, "sentences"), (rows, "loans")])
def test_a_fresh_machine_gets_made_up_data_and_is_told_so(choose: Callable[..., Subject], model: str) -> None:
    subject = choose(None)
    assert subject.model == model and "drawn from a seed" in subject.data and subject.training == ""
    assert not PRESETS[model].needs_data


def test_the_operators_texts_are_taken(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "dev.tsv").write_text("a fine film\t1\n")
    subject = texts(str(tmp_path))
    assert (subject.model, subject.held_out()) == ("sst2", Text("a fine film"))
    assert "SST-2" in subject.data and f"--data-root {tmp_path}" in subject.training


def test_the_operators_rows_are_taken(tmp_path: Path) -> None:
    (tmp_path / "adult").mkdir()
    content = "".join(LINE.format(label) for label in ("<=50K", ">50K") * 8_000)
    (tmp_path / "adult" / "adult.data.gz").write_bytes(gzip.compress(content.encode()))
    subject = rows(str(tmp_path))
    asked = http_input(explain_request("adult", subject.held_out(), ExplainOptions()))
    assert subject.model == "adult" and asked["record"]["age"] == 39 and asked["record"]["native-country"] is None  # type: ignore[index]


def test_one_kind_is_asked_for() -> None:
    assert chosen(parser().parse_args([])).model == "digits"
    assert chosen(parser().parse_args(["--text"])).model == "sentences"
    assert chosen(parser().parse_args(["--table"])).model == "loans"
    with pytest.raises(SystemExit):
        parser().parse_args(["--text", "--table"])
