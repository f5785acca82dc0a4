"""Scores distilled from other trainings of the recipe, beside the model's own, its teachers and Kronfluence.

For each preset and seed: the truth is that of ``kronfluence_peer.py lds`` with the same working directory (nothing
that it holds is made anew); teachers are trained and asked by the rebuild's own code. Settings are chosen on queries
0..99 and scored on 100..199. Unlabelled inputs are images of the same source that are neither trained on nor scored.
Needs the datasets (environment variable PROPONENT_DATA) and Kronfluence.

Run: ``python benchmarks/distilled.py --work DIRECTORY``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kronfluence_lds
import torch
from commands import RESULTS, write
from kronfluence_lds import TEST, TUNE
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Subset

from proponent.attribution.agreement import linear_datamodeling, spearman
from proponent.attribution.division import positive_or_one
from proponent.attribution.embedding.distilled import Student, Teacher, TeacherMoment, fit
from proponent.audit.intervals import two_way_interval
from proponent.audit.retraining import Retraining, half_subsets, retrained_losses
from proponent.classifier import Classifier, load_classifier
from proponent.datasets import cifar10, mnist
from proponent.rebuild.batching import Batching
from proponent.rebuild.compression import DEFAULT_SIZE
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.distillation.pseudo_queries import InputsOnly, PseudoQueries
from proponent.rebuild.distillation.student import OPERATOR_SIZE, row_groups
from proponent.rebuild.distillation.teacher_rows import as_teacher, ask, norms_of, remove_workspace, teacher_rows
from proponent.rebuild.distillation.teachers import Teaching, trained_teachers
from proponent.rebuild.ekfac import rebuild_ekfac
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import concatenated
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec
from proponent.training.train_preset import train_preset

DAMPINGS = {"mnist-cnn": (1000.0, 1.0), "cifar10-cnn": (100.0, 1 / 3)}
"""Both dampings that the model's own scores were best with."""
SIZES, RIDGES = (128, 256, 768), (3e-3, 3e-2)
COUNTS, MODELS = (1000, 3000), (1, 2, 5)
OTHERS, COPY = 4000, 0.2
"""Images of the JPEG copy that are looked at, and how near to one trained on (root mean square of thumbnails, of
which copies have less than 0.1 and others more than 0.3) none may be."""
SCORED, MIXED, GIVEN = "scored", "mixed", "given"


@dataclass(frozen=True)
class Set:
    """A preset at a seed, with its truth.

    Attributes:
        queries: Positions in the held-out set.
        masks: Halves, [S, N] bool.
        losses: Of the models retrained on them, [S, Q].
    """

    of: Classifier
    data: TrainingSet
    held_out: TrainingSet
    queries: list[int]
    masks: Tensor
    losses: Tensor


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for preset in options.presets:
        for seed in options.seeds:
            print(f"{preset}, seed {seed}", flush=True)
            rows.append(compare(preset, seed, options))
            write(options.out, {"results": rows}, options.threads)
    print("| model | seed | own | student, no unlabelled | with | teacher | Kronfluence | ratios |\n|" + "---|" * 8)
    for row in rows:
        chosen = [row[name]["test"] for name in ("own", "without", "with", "teacher", "kronfluence")]
        ratios = ", ".join(f"{row['ratios'][name]['ratio']:.2f}" for name in ("without", "with", "teacher"))
        print(f"| {row['preset']} | {row['seed']} | {' | '.join(f'{each:.4f}' for each in chosen)} | {ratios} |")


def compare(preset: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """All settings on one model."""
    directory = options.work / f"{preset}-{seed}"
    some = _opened(preset, seed, directory, options)
    models, sizes = _asked(some, preset, directory, options)
    labels = some.data.batch(range(len(some.data))).labels
    trials = _trials(models, sizes, row_groups(labels, len(some.of.class_names)), explore=options.explore)
    scored = {name: _figures(scores, some) for name, scores in trials.items()}
    chosen = {
        "own": "own",
        "teacher": f"teacher {len(models) - 1}",
        "without": _best(scored, f"student {MIXED}, K 768"),
        "with": _best(scored, f"student {GIVEN} + {MIXED}, K 768"),
        "without, K 256": _best(scored, f"student {MIXED}, K 256"),
        "with, K 256": _best(scored, f"student {GIVEN} + {MIXED}, K 256"),
        "without, K 128": _best(scored, f"student {MIXED}, K 128"),
        "with, K 128": _best(scored, f"student {GIVEN} + {MIXED}, K 128"),
    }
    peer = _peer(some, directory)
    peer_best = max(peer, key=lambda each: float(_lds(each[1], some)[TUNE].mean()))
    row: dict[str, Any] = {"preset": preset, "seed": seed, "teachers": len(models) - 1, "pseudo_queries": sizes}
    row["operator_size"] = options.operator_size
    row |= {name: {"setting": key, **scored[key]} for name, key in chosen.items()}
    row["kronfluence"] = {"setting": peer_best[0], "dampings": len(peer), **_figures(peer_best[1], some)}
    row["ratios"] = {name: _ratio(trials[key], peer_best[1], some) for name, key in chosen.items()}
    return row | {"trials": scored}


def _opened(preset: str, seed: int, directory: Path, options: argparse.Namespace) -> Set:
    if not (directory / "explain.yaml").exists():
        train_preset(preset, directory, seed=seed)
    spec = load_spec(directory)
    damping, second = DAMPINGS[preset]
    size = options.operator_size
    update = {"damping": damping, "second_damping": second * size / DEFAULT_SIZE, "embedding_size": size}
    settings = spec.curvature.model_copy(update=update)
    of = load_classifier(spec.model_copy(update={"curvature": settings, "expected_accuracy": 0.0}))
    data, held_out = TrainingSet.open(of, spec.dataset), TrainingSet.open(of, spec.held_out, "held_out")
    count, wanted = kronfluence_lds.SUBSETS, kronfluence_lds.QUERIES
    masks = half_subsets(len(data), count, 1000 + seed)
    queries = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(77))[:wanted].tolist()
    seeds = tuple(range(1000 * (seed + 1), 1000 * (seed + 1) + count))
    job = Retraining(spec, seeds, tuple(queries), directory / "retrained-own-seeds")
    losses = retrained_losses(job, masks, StageProgress(quiet=True), options.jobs)
    return Set(of, data, held_out, queries, masks, losses)


class Chain:
    """Several kinds of inputs, one after the other, as teachers are asked."""

    def __init__(self, parts: Sequence[PseudoQueries | Tensor]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def blocks(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """As ``PseudoQueries.blocks``."""
        start = 0
        for part in self._parts:
            blocks = part.split(size) if isinstance(part, Tensor) else (block for _, block in part.blocks(size))
            for block in blocks:
                yield slice(start, start + len(block)), block
                start += len(block)


def _unlabelled(some: Set, preset: str) -> TrainingSet:
    """Images of the same source that are neither trained on nor scored."""
    source: Any = mnist.train() if preset == "mnist-cnn" else cifar10.jpeg()
    if preset == "mnist-cnn":
        return TrainingSet(InputsOnly(Subset(source, range(len(some.data), len(source)))), some.of, "unlabelled")
    # The lossy copy's training images: the scored ones are of the other split, those trained on are among them.
    others = TrainingSet(InputsOnly(source), some.of, "unlabelled")
    positions = others.sample(OTHERS, seed=5)
    known = _thumbnails(some.data, range(len(some.data)))
    distances = torch.cdist(_thumbnails(others, positions), known).amin(dim=1) / known.shape[1] ** 0.5
    kept = [place for place, distance in zip(positions, distances.tolist(), strict=True) if distance > COPY]
    return TrainingSet(InputsOnly(Subset(source, kept)), some.of, "unlabelled")


def _thumbnails(data: TrainingSet, positions: Sequence[int]) -> Tensor:
    """Each image averaged over squares of 2 x 2, flat."""
    return torch.nn.functional.avg_pool2d(data.batch(positions).inputs, 2).flatten(1)


def _asked(
    some: Set, preset: str, directory: Path, options: argparse.Namespace
) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """What the served model (first) and its teachers say of all inputs, and how many there are of each kind."""
    others = _unlabelled(some, preset)
    mixed = PseudoQueries(some.data, None, options.pseudo_queries, seed=4)
    given = PseudoQueries(some.data, others, min(options.given, len(others)), seed=4)
    sizes = {SCORED: len(some.queries), MIXED: len(mixed), GIVEN: len(given)}
    workspace = Workspace(directory / "distilled", f"{sizes}")
    layers = some.of.find_layers()
    context = RebuildContext(some.of, layers, some.data, Batching.of(128), workspace, StageProgress(quiet=True))
    scored = some.held_out.batch(some.queries)
    if not workspace.has("model-served"):
        embedding, _, shards = rebuild_ekfac(context)
        labels = torch.cat([scored.labels, ask(context, embedding, Chain([mixed, given]))["labels"]])
        asked = ask(context, embedding, Chain([scored.inputs, mixed, given]), labels)
        rows = norms_of(concatenated([workspace.load(name) for name in shards]))
        origins = torch.cat([torch.full((len(some.queries),), -1), mixed.origins, given.origins])
        parts = {"queries": asked["phi"], "scales": asked["scales"], "labels": labels, "origins": origins}
        workspace.save("model-served", parts | rows)
    labels = workspace.load("model-served")["labels"]
    teaching = Teaching(options.work / "teachers", jobs=options.jobs)
    files = trained_teachers(some.of.spec, some.data, options.teachers, teaching, context.progress)
    for number, file in enumerate(files):
        if not workspace.has(f"model-{number:05d}"):
            chain: Any = Chain([scored.inputs, mixed, given])
            workspace.save(f"model-{number:05d}", teacher_rows(context, number, file, chain, labels))
            remove_workspace(context, number)
            print(f"  asked teacher {number}", flush=True)
    names = ["model-served", *(f"model-{number:05d}" for number in range(len(files)))]
    return [workspace.load(name) for name in names], sizes


def _trials(
    models: list[dict[str, Tensor]], sizes: dict[str, int], groups: Tensor, *, explore: bool
) -> dict[str, Tensor]:
    """Scores [Q, N] of the queries by what gave them."""
    kinds = dict(zip(sizes, torch.arange(sum(sizes.values())).split(list(sizes.values())), strict=True))
    answers = [_answer(model, kinds[SCORED]) for model in models]
    last = len(models) - 1
    counts = [each for each in MODELS if each < last]
    trials = {"own": answers[0].queries.double() @ answers[0].rows.double().mT}
    for count in [*counts, last]:
        trials[f"teacher {count}"] = sum((_normalised(each) for each in answers[: count + 1]), torch.zeros(1))
    students = _Students(groups, models[0]["queries"][kinds[SCORED]].double(), trials)
    both = torch.cat([kinds[GIVEN], kinds[MIXED]])
    for kind, places in ((MIXED, kinds[MIXED]), (f"{GIVEN} + {MIXED}", both)):
        moment = _moment(models[:1], places)
        for number, model in enumerate(models[1:], start=1):
            moment.add(_answer(model, places))
            if explore and number in counts:
                students.add(f"{number} teachers {kind}", moment, RIDGES[0], SIZES[-1:])
        for ridge in RIDGES:
            students.add(f"student {kind}", moment, ridge, SIZES)
    for count in COUNTS if explore else ():
        for kind in (MIXED, GIVEN):
            if count <= sizes[kind]:
                few = _moment(models, kinds[kind][:count])
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


def _answer(model: dict[str, Tensor], places: Tensor) -> Teacher:
    whole = as_teacher(model)
    return replace(whole, queries=whole.queries[places], scales=whole.scales[places])


def _normalised(answer: Teacher) -> Tensor:
    scores = answer.queries.double() @ answer.rows.double().mT
    return scores / scores.std(dim=1, keepdim=True)


def _moment(models: list[dict[str, Tensor]], places: Tensor) -> TeacherMoment:
    phi = models[0]["queries"][places].double()
    moment = TeacherMoment(phi / positive_or_one(phi.norm(dim=1))[:, None], models[0]["origins"][places])
    for model in models:
        moment.add(_answer(model, places))
    return moment


def _peer(some: Set, directory: Path) -> list[tuple[str, Tensor]]:
    """Kronfluence's scores at each damping, kept."""
    file = directory / "kronfluence.safetensors"
    if not file.exists():
        trials = kronfluence_lds.peer_scores(some.of, some.data, some.held_out, some.queries, directory / "scratch")
        save_file({str(setting): scores.contiguous() for setting, scores in trials}, file)
    return list(load_file(file).items())


def _lds(scores: Tensor, some: Set) -> Tensor:
    return linear_datamodeling(scores.double(), some.masks, some.losses)


def _figures(scores: Tensor, some: Set) -> dict[str, float]:
    lds = _lds(scores, some)
    return {"tuning": float(lds[TUNE].mean()), "test": float(lds[TEST].mean()), "all": float(lds.mean())}


def _best(scored: dict[str, dict[str, float]], start: str) -> str:
    return max((name for name in scored if name.startswith(start)), key=lambda name: scored[name]["tuning"])


def _ratio(ours: Tensor, theirs: Tensor, some: Set) -> dict[str, Any]:
    """Of the scores on the test queries, with the audit's interval: other queries and other retrained models."""
    summed = [scores.double()[TEST] @ some.masks.double().mT for scores in (ours, theirs)]
    both, real = torch.stack(summed, dim=-1), -some.losses.mT[TEST]
    low, high = two_way_interval(_quotient, both, real, correlation=False)
    return {"ratio": float(_quotient(both, real)), "interval_95": [low, high]}


def _quotient(both: Tensor, real: Tensor) -> Tensor:
    return spearman(both[..., 0], real).mean() / spearman(both[..., 1], real).mean()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument(
        "--presets", type=lambda text: text.split(","), default=list(DAMPINGS), help="comma-separated"
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2], help="of the models"
    )
    parser.add_argument("--teachers", type=int, default=10)
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
