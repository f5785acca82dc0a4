"""Ratios of faithfulness against the audit's interval on the tables themselves."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proponent.attribution.agreement import spearman
from proponent.audit.intervals import two_way_interval

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUERIES, HALVES = 12, 9


@pytest.fixture
def ratios() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("ratios")


def _sides(models: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Scores of two sides and losses; some scores tie, and those of one query are all the same."""
    draw = torch.Generator().manual_seed(3)
    real = [torch.randn(QUERIES, HALVES, generator=draw) for _ in range(models)]
    ours = [(each + torch.randn(each.shape, generator=draw)).round() for each in real]
    theirs = [each + 2 * torch.randn(each.shape, generator=draw) for each in real]
    ours[0][0] = 0.0
    return ours, theirs, [-each.mT[None] for each in real]


@pytest.mark.parametrize("models", [1, 3])
def test_it_is_the_audits_interval_of_resampled_tables(ratios: Any, models: int) -> None:
    ours, theirs, runs = _sides(models)

    def means(both: Tensor, real: Tensor) -> list[Tensor]:
        return [torch.stack([spearman(s[..., m], real[..., m]).mean() for m in range(models)]).mean() for s in both]

    def quotient(both: Tensor, real: Tensor) -> Tensor:
        left, right = means(both.unbind(dim=-1), real)
        return left / right

    both = torch.stack([torch.stack(ours, dim=-1), torch.stack(theirs, dim=-1)], dim=-1)
    real = torch.stack([-each[0].mT for each in runs], dim=-1)
    found = ratios.compared([ratios.Pair(*each) for each in zip(ours, theirs, runs, strict=True)])
    left, right = (float(each) for each in means(both.unbind(dim=-1), real))
    assert (found["ours"], found["theirs"]) == pytest.approx((left, right), abs=1e-12)
    assert found["ratio"] == pytest.approx(left / right) and found["difference"] == pytest.approx(left - right)
    expected = two_way_interval(quotient, both, real, correlation=False)
    assert found["ratio_95"] == pytest.approx(expected, rel=1e-9)
    assert found["difference_95"][0] < found["difference"] < found["difference_95"][1]
