"""The data sets and transforms of the presets sst2 and adult, on files that are written here."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from proponent.datasets import adult, sst2
from proponent.datasets.examples import Examples
from proponent.datasets.tables import Columns, Record, Table, fit_table
from proponent.datasets.tokens import Tokens, fit_tokenizer
from proponent.errors import InvalidInputError, NotFoundError, SpecError
from proponent.models.table_mlp import TableMLP
from proponent.signature import ColumnType

ROW = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, Cuba"
)


def examples(inputs: list[Record]) -> Examples[Record]:
    names = [str(number) for number in range(len(inputs))]
    return Examples(inputs, [0] * len(inputs), ["a", "b"], names, names)


def test_sentences_have_ids_and_lines(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.tsv").write_text("a fine film\t1\na tab\tin it\t0", encoding="utf-8")
    found = sst2.train(str(tmp_path))
    assert list(found) == [("a fine film", 1), ("a tab\tin it", 0)]
    assert found.example_id(1) == "sst2-train-00001" and found.source(1).endswith("train.tsv#2")
    assert len(sst2.train(str(tmp_path), limit=1)) == 1
    with pytest.raises(NotFoundError, match=r"dev\.tsv"):
        sst2.dev(str(tmp_path))
    (tmp_path / "sst2" / "test.tsv").write_text("no label\n")
    with pytest.raises(InvalidInputError, match=r"line 1 is 'no label', expected a text, a tab and 0 or 1"):
        sst2.test(str(tmp_path))


def test_rows_have_missing_values_and_both_splits_all_rows(tmp_path: Path) -> None:
    (tmp_path / "adult").mkdir()
    lines = [f"{ROW}, {adult.CLASS_NAMES[number % 2]}" for number in range(adult.HELD_OUT + 4)]
    lines[0] = lines[0].replace("State-gov", "?")
    file = tmp_path / "adult" / "adult.data.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    train, test = adult.train(str(tmp_path)), adult.test(str(tmp_path))
    assert (len(train), len(test)) == (4, adult.HELD_OUT)
    ids = {side.example_id(position) for side in (train, test) for position in range(len(side))}
    assert len(ids) == len(lines)
    missing = [record for side in (train, test) for record, _ in side if record["workclass"] is None]
    assert len(missing) == 1 and missing[0]["age"] == 39.0 and missing[0]["native-country"] == "Cuba"
    file.write_bytes(gzip.compress(b"39, State-gov\n"))
    with pytest.raises(InvalidInputError, match="line 1 has 2 columns"):
        adult.train(str(tmp_path))


def test_columns_are_standardised_and_numbered(tmp_path: Path) -> None:
    records: list[Record] = [
        {"age": 1.0, "job": "b", "kind": "x"},
        {"age": 3.0, "job": None, "kind": "y"},
        {"age": 5.0, "job": "a", "kind": "x"},
    ]
    fit_table(examples(records), tmp_path)
    columns = Columns(tmp_path / "table.json")
    assert [(c.name, c.type, c.categories, c.optional) for c in columns.columns] == [
        ("age", ColumnType.NUMBER, (), False),
        ("job", ColumnType.CATEGORY, ("a", "b"), True),
        ("kind", ColumnType.CATEGORY, ("x", "y"), False),
    ]
    made = [columns(record) for record in records]
    numbers = torch.stack([each["numbers"] for each in made])
    torch.testing.assert_close(numbers[:, 0], torch.tensor([-1.0, 0.0, 1.0]) * 1.5**0.5)
    assert [each["categories"].tolist() for each in made] == [[2, 4], [0, 5], [1, 4]]
    assert columns({"age": None, "job": "new", "kind": "y"})["categories"].tolist() == [0, 5]
    assert Table.read(tmp_path / "table.json").vocabulary == 6
    model = TableMLP(str(tmp_path / "table.json"))
    assert model(numbers, torch.stack([each["categories"] for each in made])).shape == (3, 2)
    with pytest.raises(SpecError, match="does not describe a table"):
        Columns(tmp_path / "none.json")


def test_a_tokenizer_is_trained_and_pads_each_text_to_a_multiple(tmp_path: Path) -> None:
    texts = ["a fine film", "a dull film and a dull story"]
    fit_tokenizer(Examples(texts, [1, 0], ["a", "b"], ["0", "1"], ["", ""]), tmp_path)
    tokens = Tokens(tmp_path / "tokenizer.json", max_tokens=12, multiple=4)
    short, long = tokens("a fine film"), tokens(texts[1])
    assert len(short["input_ids"]) == 5 and int(short["attention_mask"].sum()) == 5
    assert [tokens.pad([each])["input_ids"].shape[1] for each in (short, long)] == [8, 12]
    both = tokens.pad([short, long])
    assert both["input_ids"].shape == (2, 12) and both["attention_mask"].sum(dim=1).tolist() == [5, 9]
    assert not bool(both["input_ids"][0, 5:].any())
    with pytest.raises(InvalidInputError, match="text has 14 tokens, expected at most 12") as error:
        tokens("film " * 12)
    assert (error.value.field, error.value.reason) == ("text", "TEXT_TOO_LONG")
    with pytest.raises(SpecError, match="is not a tokenizer"):
        Tokens(tmp_path / "none.json")
