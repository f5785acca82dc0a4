"""Scores distilled from other trainings of the recipe, beside the model's own, its teachers and Kronfluence.

For each preset and seed: the truth is that of ``kronfluence_peer.py lds`` with the same working directory (nothing
that it holds is made anew); teachers are trained and asked by the rebuild's own code, on the models' device. Settings
are chosen on queries 0..99 and scored on 100..199. Unlabelled inputs are images of the same source that are neither
trained on nor scored. What scores add up to over the halves is kept beside each model; ``--sums`` ends with it: it
needs no truth, and its machine none of it. Needs the datasets (environment variable PROPONENT_DATA) and Kronfluence.

Run: ``python benchmarks/distilled.py --work DIRECTORY``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kronfluence_lds
import torch
from commands import RESULTS, write
from distilled_models import DAMPINGS, GIVEN, MIXED, SCORED, Asked, Model, Set, ask, asked_about, opened
from kronfluence_lds import TEST, TUNE
from ratios import Pair, compared
from safetensors.torch import load_file
from torch import Tensor

from proponent.attribution.division import positive_or_one
from proponent.attribution.embedding.distilled import Student, Teacher, TeacherMoment, fit
from proponent.rebuild.distillation.student import OPERATOR_SIZE, row_groups
from proponent.rebuild.distillation.teacher_rows import as_teacher
from proponent.rebuild.retraining import save_finished

SIZES, RIDGES = (128, 256, 768), (3e-3, 3e-2)
_KINDS, _SIZES = (SCORED, MIXED, GIVEN), "sizes"
"""How many inputs there are of each kind, among the sums."""
COUNTS, MODELS = (1000, 3000), (2, 3, 6)
"""Fewer pseudo-queries, and fewer teachers: as many as are the same ones whatever follows."""


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    for preset in options.presets:
        sets = [opened(preset, seed, options) for seed in options.seeds]
        sums = summed(sets, preset, options)
        if not options.sums:
            _write(preset, [compare(some, sums[some.truth.seed], options) for some in sets], options)
    if not options.sums:
        _print(json.loads(options.out.read_text()))


def _write(preset: str, found: Sequence[Compared], options: argparse.Namespace) -> None:
    """In place of what the file has of the preset by as many teachers; the others are kept."""
    key = {"preset": preset, "teachers": options.teachers, "teachers_on": options.teachers_on}
    pairs = {name: [each.pairs[name] for each in found] for name in found[0].pairs}
    together = {**key, "seeds": options.seeds, "ratios": {name: compared(each) for name, each in pairs.items()}}
    content = json.loads(options.out.read_text()) if options.out.exists() else {"results": [], "together": []}
    kept = {
        part: [row for row in content[part] if any(row[name] != value for name, value in key.items())]
        for part in ("results", "together")
    }
    rows = [*kept["results"], *(each.row for each in found)]
    write(options.out, {"results": rows, "together": [*kept["together"], together]}, options.threads)


def _print(content: dict[str, Any]) -> None:
    print("| model | seed | own | student, no unlabelled | with | teacher | Kronfluence | ratios |\n|" + "---|" * 8)
    for row in content["results"]:
        scores = " | ".join(
            f"{row[name]['test']:.4f}" for name in ("own", "without", "with", "teacher", "kronfluence")
        )
        print(f"| {row['preset']} | {row['seed']} | {scores} | {_printed(row['ratios'])} |")
    for row in content["together"]:
        print(f"| {row['preset']} | {row['seeds']} | | | | | | {_printed(row['ratios'])} |")


def _printed(ratios: dict[str, Any]) -> str:
    return ", ".join(f"{ratios[name]['ratio']:.2f}" for name in ("without", "with", "teacher"))


def summed(sets: Sequence[Set], preset: str, options: argparse.Namespace) -> dict[int, dict[str, Tensor]]:
    """By the models' seeds, what all settings' scores add up to over the halves, and ``_SIZES``; kept beside each.

    Models and teachers are asked only where one's sums are missing.
    """
    wanted = ("teachers", "teachers_on", "pseudo_queries", "given", "operator_size")
    name = "-".join(["distilled", *(str(getattr(options, key)) for key in wanted)]) + ".safetensors"
    files = {some.truth.seed: some.truth.directory / name for some in sets}
    if not all(file.exists() for file in files.values()):
        for some in sets:
            kronfluence_lds.peer_sums(some.truth)
        asked = asked_about(sets, preset, options)
        sizes = torch.tensor([asked.sizes[kind] for kind in _KINDS])
        for some, models in zip(sets, ask(sets, asked, preset, options), strict=True):
            trials = _trials(models, asked, _groups(some), explore=options.explore)
            sums = {name: some.truth.summed(scores) for name, scores in trials.items()}
            save_finished({**sums, _SIZES: sizes}, files[some.truth.seed])
            print(f"  {preset}, seed {some.truth.seed}: {len(sums)} settings", flush=True)
    return {seed: load_file(file) for seed, file in files.items()}


def _groups(some: Set) -> Tensor:
    labels = some.truth.data.batch(range(len(some.truth.data))).labels
    return row_groups(labels, len(some.of.class_names))


@dataclass(frozen=True)
class Compared:
    """One model's row of results, and what several models' are made of, by the name of what is compared."""

    row: dict[str, Any]
    pairs: dict[str, Pair]


def compare(some: Set, found: dict[str, Tensor], options: argparse.Namespace) -> Compared:
    """All settings on one model."""
    sums = {name: each for name, each in found.items() if name != _SIZES}
    scored = {name: _figures(each, some) for name, each in sums.items()}
    chosen = {
        "own": "own",
        "teacher": f"teacher {options.teachers}",
        "without": _best(scored, f"student {MIXED}, K 768"),
        "with": _best(scored, f"student {GIVEN} + {MIXED}, K 768"),
        "without, K 256": _best(scored, f"student {MIXED}, K 256"),
        "with, K 256": _best(scored, f"student {GIVEN} + {MIXED}, K 256"),
        "without, K 128": _best(scored, f"student {MIXED}, K 128"),
        "with, K 128": _best(scored, f"student {GIVEN} + {MIXED}, K 128"),
    }
    peer = kronfluence_lds.peer_sums(some.truth)
    peer_best = max(peer, key=lambda each: float(_lds(each[1], some)[TUNE].mean()))
    row: dict[str, Any] = {
        "preset": some.of.spec.name,
        "seed": some.truth.seed,
        "teachers": options.teachers,
        "teachers_on": options.teachers_on,
        "pseudo_queries": dict(zip(_KINDS, found[_SIZES].tolist(), strict=True)),
        "operator_size": options.operator_size,
        "trainings": len(some.runs),
        **some.truth.repeats(len(some.runs)),
    }
    row |= {name: {"setting": key, **scored[key]} for name, key in chosen.items()}
    row["kronfluence"] = {"setting": str(peer_best[0]), "dampings": len(peer), **_figures(peer_best[1], some)}
    runs = some.runs[:, :, TEST]
    pairs = {name: Pair(sums[key][TEST], peer_best[1][TEST], runs) for name, key in chosen.items()}
    row["ratios"] = {name: compared([pair]) for name, pair in pairs.items()}
    return Compared(row | {"trials": scored}, pairs)


def _trials(models: list[Model], asked: Asked, groups: Tensor, *, explore: bool) -> dict[str, Tensor]:
    """Scores [Q, N] of the queries by what gave them."""
    sizes, device = asked.sizes, groups.device
    places = torch.arange(sum(sizes.values()), device=device)
    kinds = dict(zip(sizes, places.split(list(sizes.values())), strict=True))
    origins = asked.origins.to(device)
    answers = [_answer(model, kinds[SCORED]) for model in models]
    last = len(models) - 1
    counts = [each for each in MODELS if each < last]
    trials = {"own": answers[0].queries.double() @ answers[0].rows.double().mT}
    for count in [*counts, last]:
        trials[f"teacher {count}"] = torch.stack([_normalised(each) for each in answers[: count + 1]]).sum(dim=0)
    students = _Students(groups, answers[0].queries.double(), trials)
    both = torch.cat([kinds[GIVEN], kinds[MIXED]])
    for kind, places in ((MIXED, kinds[MIXED]), (f"{GIVEN} + {MIXED}", both)):
        moment = _moment(models[:1], places, origins)
        for number, model in enumerate(models[1:], start=1):
            moment.add(_answer(model, places))
            if explore and number in counts:
                students.add(f"{number} teachers {kind}", moment, RIDGES[0], SIZES[-1:])
        for ridge in RIDGES:
            students.add(f"student {kind}", moment, ridge, SIZES)
    for count in COUNTS if explore else ():
        for kind in (MIXED, GIVEN):
            if count <= sizes[kind]:
                few = _moment(models, kinds[kind][:count], origins)
                students.add(f"{count} {kind}", few, RIDGES[0], SIZES[-1:])
    return trials


@dataclass(frozen=True)
class _Students:
    """What students say of the scored queries.

    Attributes:
        groups: Of the training examples, [N].
        asked: Features of the scored queries, [Q, Kf].
        trials: Scores [Q, N] by name.
    """

    groups: Tensor
    asked: Tensor
    trials: dict[str, Tensor]

    def add(self, name: str, moment: TeacherMoment, ridge: float, sizes: Sequence[int]) -> None:
        """Fits students of some sizes; one of them in one basis as well."""
        found = fit(moment, ridge)
        longest = found.student(max(sizes), self.groups)
        for size in sizes:
            student = found.student(size, self.groups) if longest.bases is None else _shortened(longest, size)
            self.trials[f"{name}, K {size}, ridge {ridge:g}"] = self._scores(student)
        if SIZES[1] in sizes:
            flat = found.student(SIZES[1], torch.zeros_like(self.groups))
            self.trials[f"{name} in one basis, K {SIZES[1]}, ridge {ridge:g}"] = self._scores(flat)

    def _scores(self, student: Student) -> Tensor:
        return self.asked @ student.queries @ student.vectors(self.groups).mT


def _shortened(student: Student, size: int) -> Student:
    """The same coded in fewer numbers: those of a basis are in the order of their energy."""
    assert student.bases is not None
    return replace(student, rows=student.rows[:, :size], bases=student.bases[..., :size])


def _answer(model: Model, places: Tensor) -> Teacher:
    whole, chosen = as_teacher(model.said), model.pairs[places]
    return replace(whole, queries=whole.queries[chosen], scales=whole.scales[chosen])


def _normalised(answer: Teacher) -> Tensor:
    scores = answer.queries.double() @ answer.rows.double().mT
    return scores / scores.std(dim=1, keepdim=True)


def _moment(models: list[Model], places: Tensor, origins: Tensor) -> TeacherMoment:
    phi = _answer(models[0], places).queries.double()
    moment = TeacherMoment(phi / positive_or_one(phi.norm(dim=1))[:, None], origins[places])
    for model in models:
        moment.add(_answer(model, places))
    return moment


def _lds(sums: Tensor, some: Set) -> Tensor:
    return some.truth.scored(sums, some.runs)


def _figures(sums: Tensor, some: Set) -> dict[str, float]:
    lds = _lds(sums, some)
    return {"tuning": float(lds[TUNE].mean()), "test": float(lds[TEST].mean()), "all": float(lds.mean())}


def _best(scored: dict[str, dict[str, float]], start: str) -> str:
    return max((name for name in scored if name.startswith(start)), key=lambda name: scored[name]["tuning"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument(
        "--presets", type=lambda text: text.split(","), default=list(DAMPINGS), help="comma-separated"
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2], help="of the models"
    )
    parser.add_argument(
        "--sums", action="store_true", help="what scores add up to over the halves alone, without the truth"
    )
    parser.add_argument("--trainings", type=int, default=1, help="of each half, whose mean losses are the truth")
    parser.add_argument("--teachers", type=int, default=10)
    parser.add_argument("--teachers-on", choices=("mixed", "all"), default="mixed", help="what they have seen")
    parser.add_argument("--pseudo-queries", type=int, default=10_000, help="mixtures of training examples")
    parser.add_argument("--given", type=int, default=3000, help="unlabelled inputs, as many as there are")
    parser.add_argument("--operator-size", type=int, default=OPERATOR_SIZE, help="numbers that models are asked in")
    parser.add_argument(
        "--explore",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fewer teachers and pseudo-queries, too",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that train")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "distilled.json")
    return parser


if __name__ == "__main__":
    main()
