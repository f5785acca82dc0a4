"""Models that return more than a tensor: everything is computed from the logits, as if they were returned alone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from proponent.attribution.logits import returning_logits
from proponent.errors import SpecError
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec

RETURNS = {
    "plain": "scores",
    "pair": "(scores, x)",
    "listed": "[scores]",
    "named": "SimpleNamespace(loss=None, logits=scores)",
    "mapping": "OrderedDict(hidden=x, logits=scores)",
}
MORE = """
from collections import OrderedDict
from types import SimpleNamespace


class Returning(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.hidden(x.flatten(1)).tanh()
        scores = self.head(x)
        return {returned}


def returning():
    return Returning()
"""
pytestmark = pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")


def explained(root: Path, monkeypatch: pytest.MonkeyPatch, returned: str) -> Any:
    """The same weights with another form of output, rebuilt, and an explanation from the bundle."""
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + MORE.format(returned=RETURNS["plain"]))
    path = tiny.project(root, model="returning", curvature={"kind": "ekfac"}, iterations=30, expected_accuracy=0)
    module = next(root.glob("toy_module_*.py"))
    module.write_text(module.read_text().replace("return scores\n", f"return {returned}\n"))
    bundle = rebuild(load_spec(path), Store(root / "store"), RebuildOptions(quiet=True))
    return Explainer.load(bundle).explain(tiny.inputs(2), [ExplainOptions()] * 2)


@pytest.mark.parametrize("name", [name for name in RETURNS if name != "plain"])
def test_explanations_are_those_of_the_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = explained(tmp_path / "plain", monkeypatch, RETURNS["plain"])
    found = explained(tmp_path / name, monkeypatch, RETURNS[name])
    assert [e.prediction for e in found] == [e.prediction for e in expected]
    assert [e.results for e in found] == [e.results for e in expected]


def test_copies_return_logits_too() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return 2 * x, "more"

    model = copy.deepcopy(returning_logits(returning_logits(Pair())))
    assert torch.equal(model(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.parametrize("returned", [(), {"scores": torch.zeros(1)}, SimpleNamespace(loss=0.0), OrderedDict(), 3.0])
def test_what_holds_no_logits_stays_as_it_is(returned: Any) -> None:
    class Odd(nn.Module):
        def forward(self, _: Tensor) -> Any:
            return returned

    assert returning_logits(Odd())(torch.ones(2)) is returned


@pytest.mark.parametrize("returned", ["{'scores': scores}", "(None, scores)"])
def test_a_model_without_logits_is_refused(returned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SpecError, match=r"must return a tensor, a tuple that begins with it or an object with \.logits"
    ):
        explained(tmp_path, monkeypatch, returned)


def test_a_loss_before_the_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="must return outputs for each example, got a single number"):
        explained(tmp_path, monkeypatch, "(scores.sum(), scores)")
