"""A rebuild from start to end: spec in, published bundle out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from proponent.allocator import keep_freed_memory
from proponent.classifier import load_classifier
from proponent.errors import SpecError
from proponent.index.bundle import seal
from proponent.index.lifecycle import WORK
from proponent.index.lock import changing
from proponent.index.store import Store
from proponent.index.tombstones import Tombstones
from proponent.rebuild.batching import batching_for
from proponent.rebuild.bundle_writer import RebuildResult, manifest_of, rebuild_key, write_files
from proponent.rebuild.context import Executor, InProcess, RebuildContext
from proponent.rebuild.coverage import Coverage, covered
from proponent.rebuild.distillation.student import distil, operator_context
from proponent.rebuild.distillation.teachers import TEACHERS, Teaching
from proponent.rebuild.ekfac import damping_of, rebuild_ekfac
from proponent.rebuild.exact import rebuild_exact
from proponent.rebuild.kept_examples import SHARE
from proponent.rebuild.memory import DEFAULT_MEMORY, default_memory
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.reading_stage import Examples, read_all
from proponent.rebuild.rows_stage import read_scales
from proponent.rebuild.samples_stage import HeldOutSamples, keep_samples
from proponent.rebuild.stage_files import is_url, open_files
from proponent.rebuild.stationarity import STATIONARY
from proponent.rebuild.survey import cached_survey, faults_of
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.single_precision import single_precision
from proponent.spec import ModelSpec


class NotStationaryWarning(UserWarning):
    """The model is far from a minimum of its training objective."""


class OmittedWarning(UserWarning):
    """No training example has a direction."""


@dataclass(frozen=True)
class RebuildOptions:
    """What a rebuild may use.

    Attributes:
        memory: Bytes that batches and matrices may take; None for `default_memory` of the device.
        batch_size: Examples read at a time, rounded up to whole blocks; None reads one block. The rows do not
            depend on it (see `proponent.rebuild.batching`).
        publish: Make the bundle current when it is done.
        jobs: Processes that train teachers.
        executor: Computes the chunks of all stages; the result does not depend on it.
        shards: URL or absolute path below which stages are kept until the bundle is whole; by default
            beside it in the store.

    >>> RebuildOptions(memory=2 << 30, publish=False).quiet
    False
    """

    memory: int | None = None
    batch_size: int | None = None
    publish: bool = True
    quiet: bool = False
    jobs: int = 1
    executor: Executor = field(default_factory=InProcess)
    shards: str = ""

    def shards_of(self, spec: ModelSpec) -> str:
        """URL of the stages of a model's rebuild, or an empty text for its directory in the store.

        Raises:
            SpecError: It is no place that other processes find.
        """
        if not self.shards:
            return ""
        root = self.shards if is_url(self.shards) else f"file://{self.shards}"
        if re.match(r"file://(?!/)", root):
            raise SpecError(
                f"--shards has value {self.shards!r}, expected a URL such as s3://bucket/stages, or an absolute path",
                field="shards",
            )
        return f"{root.rstrip('/')}/{spec.name}/{WORK}"


Audit = Callable[[RebuildResult], Mapping[str, object]]


def no_audit(result: RebuildResult) -> Mapping[str, object]:
    """No metrics."""
    return {}


def rebuild(spec: ModelSpec, store: Store, options: RebuildOptions | None = None, audit: Audit = no_audit) -> Path:
    """Builds (or resumes) the bundle of a spec; returns its directory.

    The metrics that ``audit`` returns are stored in the manifest.

    Forgotten examples are left out as if the dataset did not hold them: no stage reads them, the curvature is
    that of the others, and N counts the others. A model that was trained on them is thus explained as if it
    had not been, which changes other influences by about the share forgotten.

    Raises:
        BusyError: Another rebuild or change of this model is running.
        StorageError: The disk is full or read-only; what was current stays so.
        SpecError, NotFoundError, TrainingMismatchError, CurvatureError: See the stages.

    Example:
        >>> from proponent import load_spec
        >>> bundle = rebuild(load_spec(project), Store(store), RebuildOptions(publish=False, quiet=True))
        >>> bundle.parent.name, len(bundle.name)
        ('bundles', 64)
    """
    keep_freed_memory()
    options = options or RebuildOptions()
    if spec.curvature.damping == "auto":
        raise SpecError("damping 'auto' must be resolved first, see proponent.rebuilding", field="curvature.damping")
    if shards := options.shards_of(spec):
        open_files(shards).names()  # what cannot be used is told before hours of work
    with changing(store, spec.name), single_precision():
        classifier = load_classifier(spec)
        forgotten = Tombstones.open(store, spec.name).ids()
        data = TrainingSet.open(classifier, spec.dataset, forgotten=forgotten)
        data.check_factory(spec.dataset, forgotten=forgotten)
        data.keep((options.memory or DEFAULT_MEMORY) // SHARE)
        coverage = covered(classifier, data)
        teaching = Teaching(store.directory(spec.name) / TEACHERS, forgotten, options.jobs, options.executor.train)
        with StageProgress(quiet=options.quiet) as progress:
            workspace, path = _run(coverage, data, store, options, audit, progress, teaching)
        if options.publish:
            store.set_current(spec.name, path.name)
        workspace.remove()
        return path


def _run(
    coverage: Coverage,
    data: TrainingSet,
    store: Store,
    options: RebuildOptions,
    audit: Audit,
    progress: StageProgress,
    teaching: Teaching,
) -> tuple[Workspace, Path]:
    classifier, layers = coverage.classifier, coverage.layers
    spec = classifier.spec
    work, shards = store.directory(spec.name) / WORK, options.shards_of(spec)
    device = options.executor.device(classifier.device)
    examples = Examples(classifier, layers, data, options.memory or default_memory(device))
    dataset_sha256 = read_all(examples, work, shards, progress, options.executor)
    samples = HeldOutSamples.choose(classifier)
    workspace = Workspace(work, rebuild_key(classifier, dataset_sha256), shards)
    batching = batching_for(classifier, layers, data, options.memory, options.batch_size, device)
    context = RebuildContext(
        classifier, layers, data, batching, workspace, progress, coverage.left_out, options.executor, batching.keeps()
    )
    found = cached_survey(context)
    coverage = coverage.without(faults_of(context, found))
    context = replace(context, classifier=coverage.classifier, layers=coverage.layers, left_out=coverage.left_out)
    result = _build(context, teaching)
    _warn_of_slope(result)
    _warn_of_omitted(result)
    with progress.step("audit"):
        metrics = audit(result)
    manifest = manifest_of(result, found, metrics, dataset_sha256, workspace.started)
    directory = workspace.directory / "bundle"
    write_files(directory, result, found, progress)
    del result, found  # what samples are explained by is read from the files
    kept = keep_samples(context, samples, directory, manifest)
    return workspace, seal(directory, replace(manifest, samples=kept), store.bundles(spec.name))


def _build(context: RebuildContext, teaching: Teaching) -> RebuildResult:
    if context.settings.kind == "exact":
        embedding, shards = rebuild_exact(context)
        scales, kept = read_scales(context.workspace, shards)
        return RebuildResult(context, embedding, None, shards, scales, kept, float(context.settings.damping or 0.0))
    deep, compression, shards = rebuild_ekfac(operator_context(context))
    facts: dict[str, object] = {}
    code = None
    if context.settings.teachers:
        found = distil(context, deep, shards, teaching)
        deep, shards, facts, code = found.embedding, found.shards, found.facts, found.code
    scales, kept = read_scales(context.workspace, shards)
    damping = damping_of(context.classifier)
    return RebuildResult(context, deep, compression, shards, scales, kept, damping, facts, code)


def _warn_of_omitted(result: RebuildResult) -> None:
    if not bool(result.scales.has_direction.any()) and result.gradient_norm_ratio > 0:
        warnings.warn(
            "no training example has a direction, though some have gradients: both RelatIF measures stay empty; see "
            "curvature.fisher and damping",
            OmittedWarning,
            stacklevel=2,
        )


def _warn_of_slope(result: RebuildResult) -> None:
    ratio = result.gradient_norm_ratio
    if ratio > STATIONARY:
        warnings.warn(
            f"the objective's gradient norm is {ratio:.3g} of the mean example's (a minimum has less than "
            f"{STATIONARY}): influence predicts retraining only roughly; train longer, or check weight_decay",
            NotStationaryWarning,
            stacklevel=2,
        )
