"""What an experiment works with: finished steps that outlive a kill, and models that experiments share.

A step is a JSON file that is whole or not there: what it gave, and the processor time that it took. Trainings and
rebuilds are kept beside the experiments, so that two that ask for the same model get it once. Names end in a digest
of what made the files, a model's recipe or the code of a step, so that what a change makes is made again, alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from proponent.audit.scoring import AuditContext, open_bundle
from proponent.classifier import read_weights
from proponent.errors import CorruptBundleError, MismatchError, ProponentError
from proponent.index.store import Store
from proponent.rebuild.pipeline import NotStationaryWarning, RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.spec import ModelSpec, load_spec
from proponent.study.code import code_of
from proponent.study.kept import read_whole, tell_damaged, write_whole
from proponent.training.presets import Preset
from proponent.training.train_preset import train

T = TypeVar("T")
MODEL, INDEX, STORE = "trained.json", "index.json", "store"


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        spec: Its explain.yaml.
        accuracy: Share of training examples that it classifies rightly.
        held_out_accuracy: The same of held-out examples.
        cpu_seconds: Of the training's epochs; 0 for one by L-BFGS, which has none.
    """

    spec: ModelSpec
    accuracy: float
    held_out_accuracy: float
    cpu_seconds: float

    @property
    def name(self) -> str:
        """Of its directory."""
        return Path(self.spec.root).name


@dataclass(frozen=True)
class Spent:
    """Processor seconds of an experiment over all runs that took part in it, each step once.

    Attributes:
        own: Of its own steps, and of what the run that ended it did between them.
        models: Of the trainings, indexes and other steps that it shares with other experiments.
    """

    own: float
    models: float


class Workbench:
    """The tools of one experiment.

    Args:
        directory: Of the experiment.
        shared: Of models that several experiments use.
        code: Of the experiment: steps of other code are not taken.
        quick: Whether small data take the place of the study's.
        data_root: Folder of the data sets; None for PROPONENT_DATA.
        progress: Shows steps.
    """

    def __init__(
        self,
        directory: Path,
        shared: Path,
        *,
        code: str,
        quick: bool,
        data_root: Path | None,
        progress: StageProgress,
    ) -> None:
        self.directory = directory
        self.quick = quick
        self.progress = progress
        self._shared = shared
        self._data_root = data_root
        self._steps = directory / f"steps-{code}{'-quick' if quick else ''}"
        self._seconds: dict[Path, float] = {}
        self._now = 0.0

    def of(self, study: T, quick: T) -> T:
        """A size of the study, or of its quick form."""
        return quick if self.quick else study

    def step(self, name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        """What ``compute(*arguments)`` gives, a JSON value; it is run once, however often the experiment is."""
        return self._kept(self._steps / f"{name}.json", partial(compute, *arguments))

    def spent(self, seconds: float) -> Spent:
        """What the experiment took, where this run took ``seconds`` of it."""
        own = sum(of for path, of in self._seconds.items() if path.is_relative_to(self._steps))
        return Spent(own + max(0.0, seconds - self._now), sum(self._seconds.values()) - own)

    def _kept(self, path: Path, compute: Callable[[], Any]) -> Any:
        """What a step gives, from its file where there is one. Steps do not contain each other."""
        found = read_whole(path, ("value", "cpu_seconds"))
        if found is None:
            started = time.process_time()
            value = compute()
            seconds = time.process_time() - started
            self._now += seconds
            write_whole(path, {"value": value, "cpu_seconds": seconds})
            found = json.loads(path.read_text(encoding="utf-8"))
        self._seconds[path] = found["cpu_seconds"]
        return found["value"]

    def track(self, name: str, items: Iterable[T], total: int) -> Iterator[T]:
        """The items, behind a bar with the remaining time."""
        return self.progress.track(name, items, total)

    def trained(self, name: str, preset: Preset, *, seed: int = 0, limit: int | None = None) -> Trained:
        """A preset's model, trained once for all experiments that ask for it.

        Raises:
            NotFoundError: A data file is missing; the message names it and how to say where it is.
        """
        directory = self._shared / f"{name}-{_digest(preset, seed, limit)}"

        def run() -> dict[str, float]:
            with self.progress.step(f"train {name}"):
                result = train(preset, directory, self._data_root, seed, limit=limit)
            epochs = json.loads(result.log.read_text(encoding="utf-8"))["epochs"]
            return {
                "accuracy": result.accuracy,
                "held_out_accuracy": result.held_out_accuracy,
                "cpu_seconds": sum(epoch.get("cpu_seconds", 0.0) for epoch in epochs),
            }

        _discard_damaged(directory)
        found = self._kept(directory / MODEL, run)
        return Trained(load_spec(directory), **found)

    def opened_of(self, trained: Trained, **curvature: Any) -> AuditContext:
        """A trained model, indexed once; ``curvature`` replaces keys of that section.

        Keys of the curvature make a store of their own, so that one model can have several bundles. A bundle that is
        damaged, or of which the model's code has changed since, is made again.
        """
        words = [trained.name, *(f"{key}-{value}" for key, value in curvature.items())]
        directory = self._shared / re.sub(r"[^\w.-]", "-", "-".join(words))
        try:
            return open_bundle(self._bundle(trained, directory, curvature))
        except (CorruptBundleError, MismatchError) as error:
            tell_damaged(directory / STORE, f"damaged or of other code ({error.message})")
            shutil.rmtree(directory / STORE, ignore_errors=True)
            (directory / INDEX).unlink()
        return open_bundle(self._bundle(trained, directory, curvature))

    def _bundle(self, trained: Trained, directory: Path, curvature: Mapping[str, Any]) -> Path:
        spec = trained.spec
        changed = spec.model_copy(update={"samples": 0, "curvature": spec.curvature.model_copy(update=curvature)})

        def run() -> str:
            with self.progress.step(f"index {trained.name}"), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotStationaryWarning)  # what the study is about, and it says so
                path = rebuild(changed, Store(directory / STORE), RebuildOptions(quiet=True))
            return path.relative_to(directory).as_posix()

        return directory / str(self._kept(directory / INDEX, run))

    def shared(self, trained: Trained, what: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        """A step whose result belongs to a model rather than to this experiment."""
        path = self._shared / trained.name / f"{what}-{code_of(compute.__module__)}.json"
        return self._kept(path, partial(compute, *arguments))

    def index_seconds(self, bundle: Path) -> float:
        """CPU seconds of a bundle's rebuild."""
        return self._seconds[bundle.parents[3] / INDEX]  # store/MODEL/bundles/DIGEST

    def opened(self, name: str, preset: Preset, *, seed: int = 0, limit: int | None = None) -> AuditContext:
        """A preset's model, trained and indexed."""
        return self.opened_of(self.trained(name, preset, seed=seed, limit=limit))


def _digest(*recipe: object) -> str:
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]


def _discard_damaged(directory: Path) -> None:
    """Forgets that a model was trained where its spec or its weights cannot be read."""
    if not (directory / MODEL).exists():
        return
    try:
        read_weights(load_spec(directory).weights_path)
    except ProponentError as error:
        tell_damaged(directory, f"damaged ({error.message})")
        (directory / MODEL).unlink()


def rounded(values: Mapping[str, float], digits: int = 6) -> dict[str, float]:
    """Figures with so many significant digits."""
    return {name: float(f"{value:.{digits}g}") for name, value in values.items()}
