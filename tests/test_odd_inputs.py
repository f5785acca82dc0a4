"""Models of ids, flags and several numbers: whatever their dtypes, each input is answered, or refused by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny
from proponent.attribution.inputs import NamedInputs, RaggedInputs, taking_inputs
from proponent.errors import InvalidInputError
from proponent.explainer import Explainer
from proponent.explainer.given import accepted
from proponent.explainer.predictor import blame_inputs
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.signatures import with_vocabularies
from proponent.results import Explanation, Prediction
from proponent.signature import InputKind, InputSignature, TensorSignature
from proponent.spec import load_spec
from proponent.user_code.made_up import made_up_inputs, ranges_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
]
VOCABULARY = 9


class Head(nn.Module):
    """Two linear layers on what a subclass makes of the inputs, [B, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def answer(self, features: Tensor) -> Tensor:
        return self.head(self.hidden(features).tanh())  # type: ignore[no-any-return]


class Flags(Head):
    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.bool
        return self.answer(x.float())


class Table(Head):
    """Embeds ids by a module, which may get them as they are, shifted or turned; then nobody can tell its bounds."""

    def __init__(
        self,
        kind: type[nn.Module],
        change: Callable[[Tensor], Tensor] = lambda ids: ids,
        *,
        tokens_first: bool = False,
    ) -> None:
        super().__init__()
        self.table, self.change, self.tokens_first = kind(VOCABULARY, 6), change, tokens_first

    def forward(self, ids: Tensor) -> Tensor:
        found = self.table(self.change(ids))
        if self.tokens_first:
            found = found.transpose(0, 1)
        return self.answer(found if found.ndim == 2 else found.mean(dim=1))


class Pair(Head):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.answer(torch.cat([left, right], dim=1))


class Items:
    """Twenty made-up examples."""

    def __init__(self, make: Callable[[torch.Generator], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 20

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.make(torch.Generator().manual_seed(position)), position % 2


def flags() -> nn.Module:
    return Flags()


def flag_items() -> Items:
    return Items(lambda generator: torch.rand(6, generator=generator) > 0.5)


def table() -> nn.Module:
    return Table(nn.Embedding)


def bag() -> nn.Module:
    return Table(nn.EmbeddingBag)


def shifting_table() -> nn.Module:
    return Table(nn.Embedding, lambda ids: ids + 1)


def tokens_first_table() -> nn.Module:
    return Table(nn.Embedding, lambda ids: ids.T, tokens_first=True)


def turning_table() -> nn.Module:
    return Table(nn.Embedding, lambda ids: ids.flip(-1))


def id_items() -> Items:
    return Items(lambda generator: torch.randint(0, VOCABULARY - 1, (5,), generator=generator))


def pair() -> nn.Module:
    return Pair()


def _pair(generator: torch.Generator) -> dict[str, Any]:
    numbers = torch.randn(6, generator=generator, dtype=torch.float64)
    return {"left": numbers[:2], "right": numbers[2:].numpy()}


def pair_items() -> Items:
    return Items(_pair)


def explainer_of(root: Path, model: str, items: str) -> Explainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(globals()[model]().state_dict(), root / "weights.safetensors")
    path = tiny.write(
        root,
        {
            "name": "odd",
            "model": {"factory": f"{__name__}:{model}"},
            "weights": "weights.safetensors",
            "dataset": {"factory": f"{__name__}:{items}"},
            "weight_decay": 0.01,
            "class_names": ["no", "yes"],
            "expected_accuracy": 0.0,
            "curvature": {"kind": "ekfac"},
        },
    )
    return Explainer.load(rebuild(load_spec(path), Store(root / "store"), RebuildOptions(quiet=True)))


def test_flags_are_an_input(tmp_path: Path) -> None:
    explainer = explainer_of(tmp_path, "flags", "flag_items")
    assert explainer.signature.dtype == "bool"
    [answer] = explainer.explain([flag_items()[0][0]], [ExplainOptions()])
    assert isinstance(answer, Explanation)


BOUNDS = {
    "table": (0, VOCABULARY - 1),
    "bag": (0, VOCABULARY - 1),
    "shifting_table": (-1, VOCABULARY - 2),
    "tokens_first_table": (0, VOCABULARY - 1),
    "turning_table": (None, None),
}


@pytest.mark.parametrize("model", BOUNDS)
def test_an_id_without_a_row_in_the_table_is_refused_and_its_neighbours_are_answered(
    model: str, tmp_path: Path
) -> None:
    explainer = explainer_of(tmp_path, model, "id_items")
    good = id_items()[0][0]
    for bad in (torch.full((5,), VOCABULARY), torch.full((5,), -2)):
        answers = explainer.explain([good, bad, good], [ExplainOptions()] * 3)
        assert [type(one) for one in answers] == [Explanation, InvalidInputError, Explanation]
        predictions = explainer.predict([good, bad, good])
        assert [type(one) for one in predictions] == [Prediction, InvalidInputError, Prediction]
    [tensor] = explainer.signature.tensors
    assert (tensor.min_value, tensor.max_value) == BOUNDS[model]


def test_ids_that_never_change_are_bounded_where_they_are_looked_up_as_they_are() -> None:
    class Kinds(Head):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.kinds = nn.Embedding(VOCABULARY, 6), nn.Embedding(2, 6)

        def forward(self, ids: Tensor, kinds: Tensor, zeros: Tensor) -> Tensor:
            return self.answer((self.words(ids) + self.kinds(kinds) + zeros[..., None]).mean(dim=1))

    given = tuple(TensorSignature(name, "int64", (3,)) for name in ("ids", "kinds", "zeros"))
    batch = {"ids": torch.tensor([[4, 2, 7]]), "kinds": torch.zeros(1, 3).long(), "zeros": torch.zeros(1, 3).long()}
    signature = InputSignature((), "L", (), InputKind.TENSORS, given)
    found = with_vocabularies(signature, taking_inputs(Kinds()), NamedInputs(batch))
    assert [each.max_value for each in found.tensors] == [VOCABULARY - 1, 1, None]


@pytest.mark.parametrize("error", [torch.AcceleratorError("assert"), torch.OutOfMemoryError("no memory")])
def test_what_a_device_fails_of_is_not_the_inputs_fault(error: RuntimeError) -> None:
    """After an assertion on a GPU every call fails: its callers must not be told to mend what they send."""
    with pytest.raises(type(error)), blame_inputs(torch.tensor([1])):
        raise error


def test_named_numbers_are_taken_in_double_precision_as_one_tensor_is(tmp_path: Path) -> None:
    explainer = explainer_of(tmp_path, "pair", "pair_items")
    doubles = pair_items()[0][0]
    singles = {name: torch.as_tensor(value).float() for name, value in doubles.items()}
    first, second = explainer.explain([doubles, singles], [ExplainOptions()] * 2)
    assert isinstance(first, Explanation) and isinstance(second, Explanation)
    assert first.prediction.probabilities == pytest.approx(second.prediction.probabilities, rel=1e-5)
    [refused] = explainer.explain([{"left": np.array([1, 2]), "right": singles["right"]}], [ExplainOptions()])
    assert isinstance(refused, InvalidInputError) and refused.field == "tensors.left"


def test_a_text_without_tokens_has_no_range() -> None:
    ranges = ranges_of(RaggedInputs([torch.tensor([3, 5]), torch.tensor([], dtype=torch.int64)], pad=list))
    assert (ranges["low"], ranges["high"]) == ({"": 3.0}, {"": 5.0})
    signature = InputSignature((-1,), "L", (), InputKind.TEXT, (TensorSignature("", "int64", (-1,)),))
    for one in made_up_inputs(signature, ranges | {"sizes": {"": [4]}}):
        assert isinstance(one, Tensor) and 3 <= int(one.min()) <= int(one.max()) <= 5


RECORDS = InputSignature((1,), "L", (), InputKind.RECORD, (TensorSignature("", "float32", (1,)),))


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"colour": "red", "size": 3}, ""),
        ({"colour": "mauve", "size": 3}, "record.colour"),
        ({"size": 3}, "record.colour"),
        ({"colour": 7, "size": 7}, "record"),
    ],
)
def test_a_transform_that_misses_something_names_the_column(record: dict[str, Any], field: str) -> None:
    """Of a category that it does not know, the column that holds it; where several do, none."""
    found = accepted(record, RECORDS, lambda row: [{"red": 1.0, "blue": 2.0}[row["colour"]]])
    assert getattr(found, "field", "") == field
