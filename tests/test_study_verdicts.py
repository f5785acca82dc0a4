"""The rules of the study's verdicts: each can say yes, no, and that the figures do not decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from proponent.attribution.agreement import spearman
from proponent.study import networks, verdicts
from proponent.study.experiments import (
    binary_cnn,
    depth,
    divine,
    figure5,
    first_order,
    fisher_kernel,
    groups,
    kronecker,
    nonconvex,
    outlier,
    shapley,
    table1,
    table2,
)

DOUBLE = torch.float64
HIGH, LOW, WIDE = [0.9, 1.0, 1.1] * 3, [-0.9, -1.0, -1.1] * 3, [-1.0, 0.2, 1.0] * 3
"""Values whose mean lies above zero, below it, and on neither side."""
ZERO = [-0.001, 0.0, 0.001] * 3
Verdict = bool | None


def shifted(values: Sequence[float], by: float) -> list[float]:
    return [value + by for value in values]


def agreement(correlation: tuple[float, float], slope: tuple[float, float]) -> dict[str, Any]:
    return {"correlation from to": correlation, "slope from to": slope}


def correlated(low: float, high: float, noise: float = 0.1, best: float = 0.95) -> dict[str, float]:
    return {"low": low, "high": high, "noise": noise, "best": best}


def draws(outlier_share: float, distance: float, spread: float = 0.0) -> list[dict[str, dict[str, float]]]:
    """Three draws whose lists of IF hold the outlier at a share, and of RelatIF a tenth of it, at a distance."""
    places = (-spread, 0.0, spread)
    return [
        {
            "IF": {"outlier": outlier_share + by / 100, "distance": 1.0, "everyone": 2.0},
            "theta-RelatIF": {"outlier": 0.1 * outlier_share, "distance": distance + by, "everyone": 2.0},
        }
        for by in places
    ]


def removals(ours: float, relative: float, spread: float = 0.001) -> list[dict[str, dict[str, float]]]:
    """Three seeds in which removing the sets changes the loss by so much."""
    seeds = (-spread, 0.0, spread)
    return [
        {"original": {"loss": 1.0}, "IF, |I|": {"loss": 1 + ours + by}, "theta-RelatIF, |I|": {"loss": 1 + relative}}
        for by in seeds
    ]


def counts(label: float, neighbour: float, spread: float = 0.01) -> dict[str, list[float]]:
    places = [-spread, 0.0, spread] * 3
    return {"label": shifted(places, label), "neighbour": shifted(places[::-1], neighbour)}


def timed(norm: float, residual: float) -> dict[str, float]:
    """A solve of one second, with so many seconds for each norm."""
    return {"seconds": 1.0, "norm": norm, "residual": residual, "norm residual": residual}


def shown(label: Sequence[float], nearer: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"label of each": label, "nearer": nearer}


def solved(fall: Sequence[float], kept: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"fall": fall, "kept of each": kept}


def lists(decay: float, seed: float, label: Sequence[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What lists share with and without weight decay, what those of two seeds do, and the label's change."""
    return {"IF": [shifted(ZERO, decay), shifted(ZERO, seed)]}, {"IF": label}


def valued(low: float, auc: float) -> dict[str, float]:
    return {"agrees from": low, "agrees to": low + 0.1, "low": auc, "high": auc + 0.1}


RULES: dict[str, tuple[Callable[..., Verdict], tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]] = {
    "both": (verdicts.both, (True, True), (True, None, False), (True, None)),
    "either": (verdicts.either, (False, None, True), (False, False), (False, None)),
    "above": (verdicts.above, (HIGH,), (LOW,), (WIDE,)),
    "above a bound": (verdicts.above, (HIGH, 0.5), (HIGH, 1.5), (WIDE, 0.5)),
    "at most": (verdicts.at_most, (ZERO, 0.1), (HIGH, 0.1), (WIDE, 0.1)),
    "within": (verdicts.within, ((-0.1, 0.1), -1, 1), ((2.0, 3.0), -1, 1), ((0.5, 1.5), -1, 1)),
    "unanimous": (verdicts.unanimous, ([True, True],), ([False, False],), ([True, False],)),
    "shorter": (verdicts.shorter, (1.0, 2.0), (2.0, 1.0), (1.0, 1.1)),
    "equation 5": (
        first_order.gives_the_change,
        (agreement((0.99, 1.0), (0.9, 1.1)),),
        (agreement((0.99, 1.0), (0.3, 0.5)),),
        (agreement((0.9, 1.0), (0.9, 1.1)),),
    ),
    "accurate influence": (
        nonconvex.accurate,
        (correlated(0.9, 1.0),),
        (correlated(-0.2, 0.5),),
        (correlated(0.5, 0.95),),
    ),
    "accurate influence, of noise": (
        nonconvex.accurate,
        (correlated(0.5, 0.7, noise=0.5, best=0.5),),
        (correlated(-0.2, 0.4, noise=0.5, best=0.5),),
        (correlated(-0.2, 0.2, noise=0.51, best=0.5),),
    ),
    "falling correlations": (
        nonconvex.falls,
        ([correlated(0.8, 0.9), correlated(0.4, 0.6), correlated(0.0, 0.2)],),
        ([correlated(0.8, 0.9), correlated(0.0, 0.2), correlated(0.4, 0.6)],),
        ([correlated(0.8, 0.9), correlated(0.4, 0.6), correlated(0.0, 0.2, noise=0.8)],),
    ),
    "outlier and neighbours": (
        outlier.picks_outlier_and_neighbours,
        (draws(0.9, 0.5),),
        (draws(0.9, 1.5),),
        (draws(0.9, 0.9, spread=0.5),),
    ),
    "order of table 1": (
        table1.order,
        (removals(0.2, 0.1), "|I|", "loss"),
        (removals(0.1, 0.2), "|I|", "loss"),
        (removals(0.2, 0.1, spread=0.5), "|I|", "loss"),
    ),
    "both of table 1 raise the loss": (
        table1.order,
        (removals(0.2, 0.1), "|I|", "loss"),
        (removals(-0.1, -0.2), "|I|", "loss"),
        (removals(0.2, 0.0, spread=0.0), "|I|", "loss"),
    ),
    "the paper's loss": (table1.is_close, (LOW, ZERO), (LOW, HIGH), (LOW, WIDE)),
    "understood": (figure5.understood, (shown(HIGH, HIGH),), (shown(HIGH, LOW),), (shown(HIGH, WIDE),)),
    "understood, by the label": (
        figure5.understood,
        (shown(HIGH, HIGH),),
        (shown(shifted(ZERO, 0.3), HIGH),),
        (shown(shifted(WIDE, 0.5), HIGH),),
    ),
    "no more than a seed": (
        binary_cnn.no_more_than_a_seed,
        lists(0.5, 0.5, ZERO),
        lists(0.3, 0.5, ZERO),
        lists(0.5, 0.5, WIDE),
    ),
    "no more than a seed, by the label": (
        binary_cnn.no_more_than_a_seed,
        lists(0.9, 0.5, shifted(ZERO, 0.05)),
        lists(0.9, 0.5, shifted(ZERO, -0.2)),
        lists(0.9, 0.5, shifted(ZERO, 0.1)),
    ),
    "easier to understand": (
        networks.easier,
        (counts(0.6, 0.3), counts(0.5, 0.2)),
        (counts(0.6, 0.1), counts(0.5, 0.2)),
        (counts(0.6, 0.2), counts(0.5, 0.2, spread=0.3)),
    ),
    "several times": (table2.lies, (timed(0.2, 1e-5), 3), (timed(0.05, 1e-5), 3), (timed(0.05, 0.5), 3)),
    "20 to 40 times": (
        table2.lies,
        (timed(0.8, 1e-5), 20, 40),
        (timed(0.1, 1e-5), 20, 40),
        (timed(0.8, 11.0), 20, 40),
    ),
    "20 to 40 times, of a lower bound": (
        table2.lies,
        (timed(1.0, 1e-5), 20, 40),
        (timed(2.0, 11.0), 20, 40),
        (timed(0.1, 11.0), 20, 40),
    ),
    "a downward trend": (
        depth.falls,
        ({"low": -2.0, "high": -1.0},),
        ({"low": 1.0, "high": 2.0},),
        ({"low": -1.0, "high": 1.0},),
    ),
    "diversity pays": (
        divine.pays,
        (solved(shifted(ZERO, 0.2), shifted(ZERO, 0.95)),),
        (solved(shifted(ZERO, 0.05), shifted(ZERO, 0.95)),),
        (solved(WIDE, shifted(ZERO, 0.95)),),
    ),
    "diversity pays, by the influence": (
        divine.pays,
        (solved(HIGH, shifted(ZERO, 0.91)),),
        (solved(HIGH, shifted(ZERO, 0.5)),),
        (solved(HIGH, shifted(ZERO, 0.9)),),
    ),
    "sets that represent": (
        fisher_kernel.is_better_than_chance,
        ({"20": {"Fisher kernel": HIGH, "random": ZERO}},),
        ({"20": {"Fisher kernel": HIGH, "random": ZERO}, "50": {"Fisher kernel": LOW, "random": ZERO}},),
        ({"20": {"Fisher kernel": HIGH, "random": ZERO}, "50": {"Fisher kernel": WIDE, "random": ZERO}},),
    ),
    "Shapley values": (shapley.valued, (valued(0.85, 0.8), 0.6), (valued(0.3, 0.8), 0.6), (valued(0.75, 0.8), 0.6)),
    "Shapley values of noise": (
        shapley.valued,
        (valued(0.85, 0.8), 0.4),
        (valued(0.85, 0.3), 0.4),
        (valued(0.3, 0.8), 0.3),
    ),
    "second order": (
        groups.is_better,
        ({"errors": [1.0, 2.0, 1.5]}, {"errors": [4.0, 9.0, 6.0]}),
        ({"errors": [4.0, 9.0, 6.0]}, {"errors": [1.0, 2.0, 1.5]}),
        ({"errors": [1.0, 9.0, 1.0]}, {"errors": [9.0, 1.0, 1.2]}),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_say_yes_and_no_and_that_nothing_is_decided(name: str) -> None:
    rule, *cases = RULES[name]
    assert [rule(*case) for case in cases] == [True, False, None]


def test_the_interval_of_a_share_is_wilsons() -> None:
    for hits, count in ((0, 20), (3, 20), (32, 100), (20, 20)):
        wanted = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
        assert verdicts.share_ends(hits / count, count) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_slopes_are_those_of_least_squares() -> None:
    places, values = [0, 1, 2, 4, 6], np.random.default_rng(0).normal(size=(3, 5))
    wanted = np.polyfit(places, values.T, 1)[0]
    assert verdicts.slope(places, torch.tensor(values)).tolist() == pytest.approx(wanted.tolist())


def trainings(noise: float, seeds: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted changes [P, Q] that are right, and real ones [S, P, Q] with noise of the seed."""
    generator = torch.Generator().manual_seed(0)
    effect = torch.randn(10, 100, generator=generator, dtype=DOUBLE)
    return effect, effect + noise * torch.randn(seeds, 10, 100, generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("noise", [0.5, 2.0, 6.0])
def test_a_right_prediction_reaches_the_correlation_that_noise_leaves(noise: float) -> None:
    found = nonconvex.compared(*trainings(noise))
    assert found["noise"] == pytest.approx(noise**2 / 6 / (1 + noise**2 / 6), rel=0.15)
    assert found["pearson"] == pytest.approx(found["best"], rel=0.05, abs=0.1)
    assert nonconvex.accurate(found) is (None if noise == 6 else True)


def test_a_wrong_prediction_is_inaccurate_whatever_the_noise_that_decides() -> None:
    effect, real = trainings(2.0)
    assert nonconvex.accurate(nonconvex.compared(effect.flip(0), real)) is False


def by_depth(scores: Mapping[int, float], queries: int = 20, halves: int = 16) -> tuple[dict[str, Any], torch.Tensor]:
    """Depths whose predictions of losses are as good as given, and losses [Q, S, D]."""
    generator = torch.Generator().manual_seed(1)
    losses = torch.randn(queries, halves, len(scores), generator=generator, dtype=DOUBLE)
    noise = torch.randn(queries, halves, len(scores), generator=generator, dtype=DOUBLE)
    each = {f"each {key}": [score] * queries for score in [0.5] for key in depth.SHARES}
    found = {
        str(layers): {
            "predicted": (-score * losses[..., place] + (1 - score) * noise[..., place]).tolist(),
            "accuracy": 0.9 if layers == max(scores) else 0.97,
            **each,
        }
        for place, (layers, score) in enumerate(scores.items())
    }
    return found, losses


def test_a_trend_counts_all_depths_and_those_of_like_accuracy_apart() -> None:
    found, losses = by_depth({0: 0.9, 1: 0.6, 2: 0.4, 4: 0.2, 6: 0.3})
    lds = [
        float(spearman(-torch.tensor(of["predicted"]), losses[..., place]).mean())
        for place, of in enumerate(found.values())
    ]
    trend = depth.trends(found, losses)
    for key, several in (("LDS", 5), ("LDS, accuracy alike", 4)):
        wanted = np.polyfit([0, 1, 2, 4, 6][:several], lds[:several], 1)[0]
        assert (trend[key]["low"] + trend[key]["high"]) / 2 == pytest.approx(wanted)
        assert depth.falls(trend[key]) is True
    assert all(trend[key]["low"] == trend[key]["high"] == pytest.approx(0) for key in depth.SHARES)


def test_a_trend_is_not_decided_by_the_deepest_alone() -> None:
    found, losses = by_depth({0: 0.5, 1: 0.3, 2: 0.6, 4: 0.7, 6: 0.4})
    assert depth.falls(depth.trends(found, losses)["LDS"]) is not True


def test_a_trend_of_lists_is_told_without_the_linear_model_too() -> None:
    found, losses = by_depth({0: 0.9, 1: 0.6, 2: 0.4})
    for share, of in zip((0.9, 0.2, 0.4), found.values(), strict=True):
        of[f"each {depth.SHARES[0]}"] = [share] * 20
    trend = depth.trends(found, losses)
    assert depth.falls(trend[depth.SHARES[0]]) is True and depth.falls(trend[f"{depth.SHARES[0]}, hidden"]) is False


def test_what_a_curvature_loses_of_a_score_is_told_with_the_others_noise_in_common() -> None:
    found, losses = by_depth({0: 0.9, 1: 0.5})
    exact, worse = (of["predicted"] for of in found.values())
    both = losses[..., :1].squeeze(-1).mT
    assert verdicts.exceeds(kronecker.loss_of_score(exact, worse, both)) is True
    assert verdicts.exceeds(kronecker.loss_of_score(worse, exact, both)) is False
    assert kronecker.loss_of_score(exact, exact, both) == pytest.approx((0, 0), abs=1e-12)


def test_agreement_with_a_monte_carlo_is_told_as_a_part_of_what_its_noise_leaves() -> None:
    generator = torch.Generator().manual_seed(2)
    truth, other = torch.randn(2, 120, generator=generator, dtype=DOUBLE)
    orders = truth + 2 * torch.randn(24, 120, generator=generator, dtype=DOUBLE)
    low, high = shapley.agreement_ends(truth, orders)
    assert low < 1 < high and high - low < 0.3
    assert shapley.agreement_ends(other, orders)[1] < 0.4


def test_a_solve_that_is_not_done_is_told_by_its_residual() -> None:
    assert table2.is_done(timed(1.0, 0.009)) and not table2.is_done(timed(1.0, 11.0))
    assert table2.ratio(timed(0.5, 1.0)) == 16
