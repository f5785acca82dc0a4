"""Retrains what the comparisons are scored against, on whatever machine is at hand, and ends in time.

Nearly all of the time of ``kronfluence_peer.py lds`` and ``distilled.py`` goes into models retrained on halves of the
training set and into teachers. This makes the same files at the same places below a working directory, in the order
of its arguments, in processes of one thread that share the GPU and in others that have none; what is there is not
made again. At its budget it ends all of them: a file that is there is whole, and another run goes on. Models that the
directory lacks are trained first.

Run: ``python benchmarks/truths.py --work DIRECTORY --gpu-jobs 8 --cpu-jobs 8 --budget-s 300 sst2/halves``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import queue
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from truth import Truth, open_truth

from proponent.audit.retraining import retrain_missing
from proponent.rebuild.distillation.teachers import Teaching, trained_teachers
from proponent.rebuild.progress import StageProgress
from proponent.single_precision import single_precision

HALVES, SECOND, TEACHERS = "halves", "second", "teachers"
"""A training of each half; another of each, for the truth's reliability; what scores are distilled from."""
ORDER = [
    *("sst2/halves", "adult/halves", "sst2/teachers", "adult/teachers", "sst2/second", "adult/second"),
    *("mnist-cnn/halves", "mnist-cnn/teachers", "cifar10-cnn/halves", "cifar10-cnn/teachers"),
]

Task = tuple[str, Callable[..., None], tuple[object, ...]]
"""What it belongs to, and the call that makes one file."""


def main() -> None:
    options = _parser().parse_args()
    end = time.monotonic() + options.budget_s
    context: Any = multiprocessing.get_context("spawn")
    waiting, ended = context.Queue(), context.Queue()
    kinds = [True] * options.gpu_jobs + [False] * options.cpu_jobs
    workers = [context.Process(target=_work, args=(waiting, ended, gpu), daemon=True) for gpu in kinds]
    for worker in workers:
        worker.start()
    counts: dict[str, int] = {}
    for name, task, arguments in _tasks(options):
        waiting.put(pickle.dumps((name, task, arguments)))  # by value: a queue keeps a file open for each tensor
        counts[name] = counts.get(name, 0) + 1
    print(f"{sum(counts.values())} to make: {counts}", flush=True)
    try:
        _follow(counts, ended, workers, end)
    finally:
        waiting.cancel_join_thread()  # or the end waits until workers have taken what is left, and they are gone
        for worker in workers:
            worker.terminate()


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    opened: dict[str, list[Truth]] = {}
    for item in options.order:
        preset, kind, *one = item.split("/")
        if preset not in opened:
            opened[preset] = [open_truth(preset, seed, options.work, options.limit) for seed in options.seeds]
        if kind == TEACHERS:
            yield from _teachers(item, opened[preset][0], options)
            continue
        for each in [truth for truth in opened[preset] if not one or truth.seed == int(one[0])]:
            name = f"{preset}/{kind}/{each.seed}"
            yield from _halves(name, each, int(kind == SECOND), options.subsets)


def _halves(name: str, truth: Truth, training: int, subsets: int) -> Iterator[Task]:
    found = _Missing()
    masks = truth.masks[:subsets]
    retrain_missing(truth.retraining(training), masks, StageProgress(quiet=True), train=found)
    return found.named(name)


def _teachers(name: str, truth: Truth, options: argparse.Namespace) -> Iterator[Task]:
    found = _Missing()
    settings = truth.of.spec.curvature.model_copy(update={"teachers": options.teachers, "teachers_on": "mixed"})
    spec = truth.of.spec.model_copy(update={"curvature": settings})
    teaching = Teaching(options.work / "teachers", train=found)
    trained_teachers(spec, truth.data, teaching, StageProgress(quiet=True))
    return found.named(name)


class _Missing:
    """Stands where trainings are run, and takes down which there are."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def __call__(
        self, task: Callable[..., None], arguments: Sequence[tuple[object, ...]], jobs: int
    ) -> Iterator[None]:
        self._calls += [(task, each) for each in arguments]
        return iter(())

    def named(self, name: str) -> Iterator[Task]:
        """What was taken down."""
        return ((name, task, arguments) for task, arguments in self._calls)


def _work(waiting: Any, ended: Any, gpu: bool) -> None:
    """Makes one file after the other until it is ended."""
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when the first tensor goes to a GPU
    torch.set_num_threads(1)
    with single_precision():
        while True:
            name, task, arguments = pickle.loads(waiting.get())
            try:
                task(*arguments)
            except Exception:
                ended.put((name, gpu, traceback.format_exc()))
            else:
                ended.put((name, gpu, None))


def _follow(counts: dict[str, int], ended: Any, workers: Sequence[BaseProcess], end: float) -> None:
    """Until everything is made, or the time is up."""
    begin, left, on_gpu = time.monotonic(), dict(counts), 0
    while any(left.values()) and time.monotonic() < end:
        if not all(worker.is_alive() for worker in workers):
            raise SystemExit("a process ended: is there memory for so many?")
        try:
            name, gpu, failed = ended.get(timeout=1.0)
        except queue.Empty:
            continue
        if failed:
            raise SystemExit(f"{name}: {failed}")
        left[name] -= 1
        on_gpu += gpu
        if not left[name]:
            print(f"{name}: {counts[name]} made, {time.monotonic() - begin:.0f} s after the start", flush=True)
    made = sum(counts.values()) - sum(left.values())
    print(f"{made} made in {time.monotonic() - begin:.0f} s, {on_gpu} of them on the GPU; left: ", end="")
    print({name: count for name, count in left.items() if count} or "nothing", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "order",
        nargs="*",
        default=ORDER,
        help=f"PRESET/KIND or PRESET/KIND/SEED each, KIND one of {HALVES}, {SECOND}, {TEACHERS}",
    )
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2], help="of the models"
    )
    parser.add_argument("--subsets", type=int, help="the first so many halves alone")
    parser.add_argument("--limit", type=int, help="the first so many examples alone")
    parser.add_argument("--teachers", type=int, default=10)
    parser.add_argument("--gpu-jobs", type=int, default=0, help="processes that share the GPU")
    parser.add_argument("--cpu-jobs", type=int, default=1, help="processes that see none")
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="seconds until all is ended")
    return parser


if __name__ == "__main__":
    main()
