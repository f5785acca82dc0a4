"""Plots of what audits measure; each takes the metrics as ``proponent audit`` keeps them, and gives SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from proponent.display.figures import counted, figure, percent
from proponent.display.svg import AGAINST, FOR, INK, LINE, QUIET, drawing, inline_svg, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RING: dict[str, Any] = {"s": 140, "facecolors": "none", "edgecolors": AGAINST, "linewidths": 2}
_DOT: dict[str, Any] = {"s": 70, "color": QUIET, "alpha": 0.5, "linewidths": 0, "zorder": 0}
_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))


def datamodeling_plot(lds: Mapping[str, Any]) -> Markup:
    """The score of each query, their mean and its interval."""
    low, high = lds["interval_95"]
    says = (
        f"Linear datamodeling score of {counted(lds['queries'], 'query', 'queries')}: mean {figure(lds['mean'])}, "
        f"95 % interval {figure(low)} to {figure(high)}"
    )
    ceiling = lds.get("ceiling")
    with drawing():
        drawn = new_figure()
        axes = drawn.subplots()
        if ceiling is not None:
            axes.axvline(ceiling, color=AGAINST, linestyle="--", label=f"at most {figure(ceiling)} is possible")
        axes.hist(lds["per_query"], bins=40, range=(_floor(lds["per_query"]), 1), color=FOR, label="queries")
        axes.axvline(lds["mean"], color=INK, label=f"mean {figure(lds['mean'])}")
        if low is not None and high is not None:
            axes.axvspan(
                max(low, -1), min(high, 1), color=QUIET, alpha=0.25, linewidth=0, label="95 % interval of the mean"
            )
        axes.set(xlabel="rank correlation of predicted and real losses (1 is perfect)", ylabel="number of queries")
        _legend(axes)
        return inline_svg(drawn, "lds", says)


def leave_one_out_plot(found: Mapping[str, Any]) -> Markup:
    """Real changes of loss on predicted ones, with the identity and the line fitted."""
    predicted, real = (found["points"][side] for side in ("predicted", "real"))
    says = (
        f"Real change of loss after leaving out one example, on the predicted change, {len(real)} pairs: correlation "
        f"{figure(found['correlation'])}, slope {figure(found['slope'])}"
    )
    with drawing():
        drawn = new_figure(height=4.4)
        axes = drawn.subplots()
        axes.axhline(0, color=LINE, linewidth=0.8, zorder=0)
        axes.axvline(0, color=LINE, linewidth=0.8, zorder=0)
        ends = [min([*predicted, 0.0]), max([*predicted, 0.0])]
        axes.plot(ends, ends, color=INK, linewidth=1, label="equal")
        slope = found["slope"]
        axes.plot(ends, [slope * end for end in ends], color=AGAINST, linestyle="--", label=f"slope {figure(slope)}")
        axes.scatter(predicted, real, s=14, color=FOR, alpha=0.7, linewidths=0, label="one example, one query")
        axes.set(xlabel="predicted change of loss", ylabel="real change of loss (retrained)")
        axes.ticklabel_format(style="sci", scilimits=(-3, 4))
        _legend(axes)
        return inline_svg(drawn, "leave-one-out", says)


def recovery_plot(found: Mapping[str, Any]) -> Markup:
    """Which share of planted label errors is found by reading so many examples."""
    curve = found["recovery"]
    says = (
        f"Share of {counted(found['flipped'], 'planted label error')} found by share of examples read in order of "
        f"self-influence: area under the ROC curve {figure(found['auc'])}; half are found after reading "
        f"{percent(_half(curve))}"
    )
    with drawing():
        drawn = new_figure()
        axes = drawn.subplots()
        inspected, recovered = ([100 * share for share in curve[side]] for side in ("inspected", "found"))
        axes.plot(inspected, recovered, color=FOR, linewidth=2, label="by self-influence")
        axes.plot([0, 100], [0, 100], color=QUIET, linestyle="--", linewidth=1, label="in random order")
        axes.set(xlabel="training examples read (%)", ylabel="label errors found (%)", xlim=(0, 100), ylim=(0, 102))
        _legend(axes)
        return inline_svg(drawn, "recovery", says)


def sweep_plot(tuning: Mapping[str, Any], damping: float, second: float, size: int) -> Markup:
    """The datamodeling score of each setting tried at the K chosen, and which was chosen."""
    trials = [trial for trial in tuning["trials"] if trial["embedding_size"] == size]
    says = (
        f"Linear datamodeling score by damping at K {size}, {counted(len(trials), 'setting')}: damping "
        f"{figure(damping)} and second damping {figure(second)} were chosen"
    )
    with drawing():
        drawn = new_figure()
        axes = drawn.subplots()
        for value, (marker, line) in zip(sorted({t["second_damping"] for t in trials}), cycle(_STYLES)):
            chosen = value == second
            xs, ys = zip(*((t["damping"], t["lds"]) for t in trials if t["second_damping"] == value), strict=True)
            color = FOR if chosen else QUIET
            axes.plot(xs, ys, marker=marker, linestyle=line, color=color, label=f"second damping {value:g}")
        tied = [(t["damping"], t["lds"]) for t in trials if t.get("is_tied")]
        if tied:
            axes.scatter(*zip(*tied, strict=True), label="ties with the best", **_DOT)
        best = [t["lds"] for t in trials if (t["damping"], t["second_damping"]) == (damping, second)]
        axes.scatter([damping] * len(best), best, label="chosen", **_RING)
        unit = "damping (relative to each layer's mean eigenvalue)"
        axes.set(xscale="log", xlabel=unit, ylabel="datamodeling score")
        _legend(axes)
        return inline_svg(drawn, "sweep", says)


def self_influence_plot(edges: Sequence[float], counts: Sequence[int], zeros: int) -> Markup:
    """How often self-influence has which size."""
    says = f"Self-influence of {counted(sum(counts), 'training example')}, {counted(zeros, 'more', 'more')} with none"
    if counts:
        says += f": from {figure(edges[0])} to {figure(edges[-1])}"
    with drawing():
        drawn = new_figure()
        axes = drawn.subplots()
        if counts:
            axes.stairs(counts, edges, fill=True, color=FOR)
            axes.set_xscale("log")
        axes.set(xlabel="self-influence (loss × number of training examples)", ylabel="training examples")
        return inline_svg(drawn, "self-influence", says)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3, fontsize=9, ncols=3)


def _floor(values: Sequence[float]) -> float:
    """Where the axis of correlations begins: 0, or what lies below."""
    return min([*values, 0.0])


def _half(curve: Mapping[str, Sequence[float]]) -> float:
    pairs = zip(curve["inspected"], curve["found"], strict=True)
    return next((inspected for inspected, found in pairs if found >= 0.5), 1.0)
