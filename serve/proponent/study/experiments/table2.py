"""Table 2: seconds per test sample of IF and RelatIF, on the fly as the paper did, and from the index."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from statistics import mean, median
from typing import Any

import torch
from PIL import Image

from proponent.audit.scoring import AuditContext
from proponent.display.svg import drawing, new_figure
from proponent.explainer import Explainer
from proponent.inspection.inverses import Solver, inverse_of
from proponent.inspection.objective import Objective
from proponent.inspection.solving import STRONGEST, WHOLE, Effort, explain_by_solver, norms_by_solving
from proponent.options import ExplainOptions, Measure, Target
from proponent.results import Explanation
from proponent.study.drawing import BLUE, GREY, ORANGE
from proponent.study.models import LARGE, NETWORKS, binary_cnn, cifar10_network, logistic_regression
from proponent.study.outcome import Claim, Outcome, Picture
from proponent.study.verdicts import both, unanimous
from proponent.study.workbench import Workbench
from proponent.v1 import explanation_pb2 as pb

TOP = 10
SEVERAL, BETWEEN = 3, (20, 40)
"""What the paper says of the ratio of RelatIF to IF: of small models, at least; of large ones, from and to."""
DAMPING = 0.01
DONE = 0.01
"""Largest residual of a solve that is called done."""
ALIKE = (0.8, 1.25)
"""Ratios of times that pass for none."""
SETTING = """Processor seconds of one thread for one test sample. On the fly: `proponent explain --solver`,
without the opening of the bundle: one solve with the objective's own curvature (its weight decay; for networks
{damping} added) and one pass over the training set; the mean of {queries} test samples, one for logistic
regression and the two largest networks. theta-RelatIF needs ||H^-1 g|| of every training example, a solve each by
the same solver: measured with its residual for {solved} of them side by side (one where one sample is timed), and
counted for all n, and for the {strongest} strongest by IF alone, which is how many `--measure theta-relatif` ranks.
The command solves for as many side by side as its memory holds, and takes less of small models than is counted here.
From the index: one query, one measure, median of {repeats}. The residual is
||g - (H + damping) x|| / ||g|| of the test sample's g, and beside it the largest of those whose norms were solved
for; the overlap is that of the top 10 with the index (exact for logistic regression,
EK-FAC for the networks, so that solver and index there differ by their curvature and damping too), and the error
||s - s'|| / ||s'|| of the scores s against the index's s' over the examples that both name ("none" where there is
none). The paper's own seconds are in a picture that its text does not repeat: what is compared is the ratio that its
conclusions tell.

A product with the curvature of a network over its training set takes seconds to minutes, so there the solves end
early and take the curvature of a sample (`--solver-steps`, `--solver-examples`): {efforts}. Arnoldi's basis
(`--solver arnoldi`) takes one product for each of its vectors, 400 where nothing ends it early, half of which are
kept; it serves every example's solve, so that RelatIF takes hardly longer than IF. It was not timed for the two
largest networks.

A solve is called done at a residual of {done} or less, of the curvature of the sample. A residual above 1 is worse
than no solve at all (x = 0 has the residual 1). What such a solve gives are no influences: its error and overlap say
nothing of the method, and its seconds are what was spent, a lower bound of what a solve would take. The ratio of
RelatIF to IF is a lower bound then too, of solves made apart, as IF's pass over the training set, which is not
repeated, would weigh less in longer solves."""


COLUMNS = [
    *("model, solver", "IF", f"RelatIF, {STRONGEST}", "ratio", "RelatIF, all", "residual", "its norms", "done"),
    *("error", "overlap", "index: IF", "index: RelatIF", "ratio"),
]


@dataclass(frozen=True)
class _Model:
    context: AuditContext
    damping: float = DAMPING
    effort: Effort = WHOLE
    costly: bool = False


EFFORTS = {
    "binary CNN": Effort(steps=50, examples=100),
    "shallow CNN": Effort(steps=50, examples=100),
    "EfficientNet-B0": Effort(steps=10, examples=16),
    "ResNet-50": Effort(steps=5, examples=16),
}


def run(bench: Workbench) -> Outcome:
    """Times every model with every solver, and its index."""
    queries, solved, repeats = bench.of(2, 1), bench.of(4, 2), bench.of(30, 3)
    found: dict[str, dict[str, Any]] = {}
    for number, (name, model) in enumerate(_models(bench).items()):
        index = bench.step(f"index-{number}", _index_seconds, model.context, repeats)
        solvers = [solver for solver in Solver if solver is not Solver.ARNOLDI or name not in LARGE]
        for solver in bench.track(name, solvers, len(solvers)):
            asked, norms = (1, 1) if model.costly else (queries, solved)
            flown = bench.step(f"{number}-{solver.value}", _on_the_fly, model, solver, asked)
            relative = bench.step(f"{number}-{solver.value}-norm", _norm, model, solver, norms)
            found[f"{name}, {solver.value}"] = {**flown, **relative, **index, "n": len(model.context.data)}
    return Outcome(
        setting=SETTING.format(
            damping=DAMPING,
            queries=queries,
            solved=solved,
            strongest=STRONGEST,
            repeats=repeats,
            efforts=_efforts(),
            done=DONE,
        ),
        columns=COLUMNS,
        rows=[[name, *_cells(of)] for name, of in found.items()],
        paragraph=_paragraph(found),
        claims=_claims(found),
        pictures={"table2": _picture(found)},
        values=found,
    )


def _models(bench: Workbench) -> dict[str, _Model]:
    models = {"logistic regression": _Model(logistic_regression(bench, 0.01), damping=0.0, costly=True)}
    contexts = {"binary CNN": binary_cnn(bench, "bce", 0.001)[1]}
    contexts |= {name: cifar10_network(bench, name)[1] for name in NETWORKS}
    for name, context in contexts.items():
        effort = bench.of(EFFORTS[name], Effort(steps=3, examples=8))
        models[name] = _Model(context, effort=effort, costly=name in LARGE)
    return models


def _efforts() -> str:
    return "; ".join(f"{name} {of.steps} steps, {of.examples} examples" for name, of in EFFORTS.items())


def _index_seconds(context: AuditContext, repeats: int) -> dict[str, float]:
    """Seconds of one explanation by the index, by measure."""
    value = context.held_out.item(0)[1]
    found = {}
    for name, measure in (("index IF", Measure.INFLUENCE), ("index RelatIF", Measure.THETA_RELATIF)):
        ask = partial(context.explainer.explain, [value], [ExplainOptions(measures=(measure,), top_k=TOP)])
        ask()
        found[name] = median(_taken(ask) for _ in range(repeats))
    return found


def _taken(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def _norm(model: _Model, solver: Solver, count: int) -> dict[str, float]:
    """Seconds of a training example's ||H^-1 g||, of ``count`` that are solved for side by side, and the residual."""
    classifier, effort = model.context.explainer.classifier, model.effort
    objective = Objective(classifier, classifier.find_layers(), model.context.data, effort.examples)
    inverse = inverse_of(objective, solver, model.damping, effort.steps)
    started = time.process_time()
    norms = norms_by_solving(inverse, range(count))
    return {"norm": (time.process_time() - started) / count, "norm residual": norms.residual}


def _on_the_fly(model: _Model, solver: Solver, queries: int) -> dict[str, float | None]:
    context, bundle = model.context, model.context.bundle
    opening = _taken(lambda: Explainer.load(bundle))
    seconds, residuals, overlaps, errors = [], [], [], []
    for position in range(queries):
        raw, value, label = context.held_out.item(position)
        options = ExplainOptions(measures=(Measure.INFLUENCE,), top_k=TOP, target=Target(label))
        started = time.process_time()
        found, solve = explain_by_solver(
            bundle, pb.ExplainRequest(encoded_image=_png(raw)), options, solver, model.damping, model.effort
        )
        seconds.append(time.process_time() - started - opening)
        [known] = context.explainer.explain([value], [options])
        residuals.append(solve.residual)
        if isinstance(known, Exception):
            raise known
        overlaps.append(overlap(found, known))
        errors.append(error(found, known))
    return {
        "seconds": mean(seconds),
        "residual": mean(residuals),
        "error": mean(each for each in errors if each is not None) if None not in errors else None,
        "overlap": mean(overlaps),
    }


def overlap(found: Explanation, known: Explanation) -> float:
    """Share of the proponents of one answer that another has."""
    names = [{each.example_id for each in answer.results[0].proponents} for answer in (found, known)]
    return len(names[0] & names[1]) / max(1, len(names[1]))


def error(found: Explanation, known: Explanation) -> float | None:
    """``||s - s'|| / ||s'||`` over the scores of the examples that both answers name; None where there is none."""
    ours, theirs = (_scores(answer) for answer in (found, known))
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    pairs = torch.tensor([(ours[name], theirs[name]) for name in both])
    return float((pairs[:, 0] - pairs[:, 1]).norm() / pairs[:, 1].norm())


def _scores(answer: Explanation) -> dict[str, float]:
    [result] = answer.results
    return {each.example_id: each.score for each in (*result.proponents, *result.opponents)}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _cells(of: dict[str, Any]) -> list[str]:
    some, every = (of["seconds"] + count * of["norm"] for count in (STRONGEST, of["n"]))
    return [
        f"{of['seconds']:.2f}",
        f"{some:.2f}",
        f"{some / of['seconds']:.1f}",
        f"{every:,.0f}",
        f"{of['residual']:.1e}",
        f"{of['norm residual']:.1e}",
        "yes" if is_done(of) else "no",
        _error_told(of),
        f"{of['overlap']:.0%}",
        f"{of['index IF']:.4f}",
        f"{of['index RelatIF']:.4f}",
        f"{of['index RelatIF'] / of['index IF']:.2f}",
    ]


def _error_told(of: Mapping[str, Any]) -> str:
    return "none" if of["error"] is None else f"{of['error']:.1e}"


def ratio(of: Mapping[str, float]) -> float:
    """RelatIF of the strongest over IF."""
    return 1 + STRONGEST * of["norm"] / of["seconds"]


def is_done(of: Mapping[str, float]) -> bool:
    """Whether the solves came so far that their residuals are small."""
    return max(of["residual"], of["norm residual"]) <= DONE


def lies(of: Mapping[str, float], least: float, most: float = inf) -> bool | None:
    """Whether a ratio lies between two; of a solve that is not done it is a lower bound, which may not decide it."""
    found = ratio(of)
    if is_done(of):
        return least <= found <= most
    return False if found > most else True if found >= least and most == inf else None


def _claims(found: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    return [_of_small_models(found), _of_large_models(found), _of_the_index(found)]


def _of_small_models(found: Mapping[str, Mapping[str, Any]]) -> Claim:
    by_solver = {solver: {n: of for n, of in _by(found, solver).items() if n not in LARGE} for solver in Solver}
    small = by_solver.pop(Solver.CG)
    others = "; ".join(f"by {solver.value}: {_told(by_model)}" for solver, by_model in by_solver.items())
    return Claim(
        "RelatIF takes at least several times as long as IF on small models",
        "several times",
        f"{STRONGEST} candidates, by conjugate gradients: {_told(small)}; {others}",
        both(*(lies(of, SEVERAL) for of in small.values())),
        f"at least {SEVERAL} on every model by conjugate gradients, which {_converged(small)}; the ratio is the "
        "number of examples whose ||H^-1 g|| is solved for, less what solving at once saves. Arnoldi's basis "
        "serves all examples, and so both measures take as long, as far from the solution as it stays",
    )


def _of_large_models(found: Mapping[str, Mapping[str, Any]]) -> Claim:
    large = {name: of for name, of in _by(found, Solver.CG).items() if name in LARGE}
    return Claim(
        "RelatIF takes 20 to 40 times as long as IF on large models",
        "20 to 40 times",
        f"{STRONGEST} candidates, by conjugate gradients ended early: {_told(large)}",
        both(*(lies(of, *BETWEEN) for of in large.values())),
        "the ratio of a solve that is not done is a lower bound, and decides this only where it is above the "
        "range. The paper does not say for how many examples it solved, and the ratio grows with their number: "
        f"with {STRONGEST}, solved for one by one, it tends to {STRONGEST + 1} as the solves get longer",
    )


def _of_the_index(found: Mapping[str, Mapping[str, Any]]) -> Claim:
    ratios = [of["index RelatIF"] / of["index IF"] for of in found.values()]
    return Claim(
        "(of this project) from the index RelatIF takes as long as IF",
        "",
        f"ratio {min(ratios):.2f} to {max(ratios):.2f}",
        unanimous([ALIKE[0] <= of <= ALIKE[1] for of in ratios]),
        f"between {ALIKE[0]} and {ALIKE[1]} on every model; ||H^-1 g|| is stored for every training example, so "
        "each measure is one product and a scale",
    )


def _by(found: Mapping[str, Mapping[str, Any]], solver: Solver) -> dict[str, Mapping[str, Any]]:
    """What one solver took, by model."""
    end = f", {solver.value}"
    return {name.removesuffix(end): of for name, of in found.items() if name.endswith(end)}


def _converged(by_model: Mapping[str, Mapping[str, Any]]) -> str:
    undone = [name for name, of in by_model.items() if not is_done(of)]
    return f"did not converge on {', '.join(undone)}" if undone else "converged"


def _told(by_model: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {ratio(of):.1f}{'' if is_done(of) else ' (not done)'}" for name, of in by_model.items())


def _paragraph(found: Mapping[str, Mapping[str, Any]]) -> str:
    told = "; ".join(
        f"{name} {of['seconds']:.2f} s, residual {of['residual']:.1e}, error {_error_told(of)}"
        for name, of in found.items()
    )
    undone = "; ".join(name for name, of in found.items() if not is_done(of)) or "none"
    worse = "; ".join(name for name, of in found.items() if of["residual"] > 1) or "none"
    return (
        f"IF on the fly: {told}. Conjugate gradients end at a residual of 1e-4 or after 200 products; LiSSA takes "
        "1,000 steps, whatever residual that leaves; the networks' solves are ended as said above.\n\nThese did not "
        f"converge: {undone}. Worse than no solve at all: {worse}. Their seconds are lower bounds, and what they "
        "list is that of an unfinished solve. The index answers from what its rebuild solved for once."
    )


def _picture(found: dict[str, dict[str, Any]]) -> Picture:
    with drawing():
        figure = new_figure(7.4, 0.6 + 0.42 * len(found))
        axes = figure.subplots()
        parts: tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...] = (
            ("index, IF", BLUE, lambda of: of["index IF"]),
            ("on the fly, IF", GREY, lambda of: of["seconds"]),
            (f"on the fly, RelatIF of {STRONGEST}", ORANGE, lambda of: of["seconds"] + STRONGEST * of["norm"]),
        )
        for number, (label, colour, seconds) in enumerate(parts):
            places = [place + 0.26 * (number - 1) for place in range(len(found))]
            axes.barh(places, [seconds(of) for of in found.values()], height=0.24, color=colour, label=label)
        names = [name if is_done(of) else f"{name} (not done)" for name, of in found.items()]
        axes.set_yticks(range(len(found)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="processor seconds per test sample")
        axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    caption = "Seconds per test sample from the index and on the fly, by model and solver; not done: lower bounds"
    return Picture(figure, caption)
