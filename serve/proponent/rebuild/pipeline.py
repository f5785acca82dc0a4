"""A rebuild from start to end: spec in, published bundle out."""

from __future__ import annotations

import datetime
import importlib.metadata
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from proponent.attribution.embedding import InfluenceEmbedding
from proponent.attribution.layers import Layers, find_layers, num_parameters, uncovered
from proponent.classifier import Classifier, load_classifier
from proponent.errors import SpecError
from proponent.index import bundle as files
from proponent.index.bundle import Manifest, seal
from proponent.index.catalog import CatalogEntry, write_catalog
from proponent.index.faults import fault_point
from proponent.index.lifecycle import WORK
from proponent.index.lock import changing
from proponent.index.rows import RowScales, write_rows, write_scales
from proponent.index.store import Store
from proponent.index.tombstones import Tombstones
from proponent.rebuild.ekfac import damping_of, rebuild_ekfac
from proponent.rebuild.exact import rebuild_exact
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import read_scales, unit_rows
from proponent.rebuild.stages import Stages
from proponent.rebuild.survey import STATIONARY, Survey, survey
from proponent.rebuild.training_set import TrainingSet, thumbnail
from proponent.rebuild.workspace import Workspace, workspace_key
from proponent.spec import ModelSpec, dump_spec

LIBRARIES = ("proponent", "torch", "torchvision", "faiss-gpu", "faiss-cpu", "numpy", "safetensors")
GIB = 1 << 30


class NotStationaryWarning(UserWarning):
    """The model is far from a minimum of its training objective."""


class UncoveredWarning(UserWarning):
    """Some parameters take no part in the explanation."""


@dataclass(frozen=True)
class RebuildOptions:
    """What a rebuild may use.

    Attributes:
        memory: Bytes that batches and matrices may take.
        batch_size: Examples at a time; None chooses by memory.
        publish: Make the bundle current when it is done.
    """

    memory: int = 8 * GIB
    batch_size: int | None = None
    publish: bool = True
    quiet: bool = False


def rebuild(spec: ModelSpec, store: Store, options: RebuildOptions | None = None) -> Path:
    """Builds (or resumes) the bundle of a spec; returns its directory.

    Forgotten examples are left out as if the dataset did not hold them: no stage reads them, the curvature is
    that of the others, and N counts the others. A model that was trained on them is thus explained as if it
    had not been, which changes other influences by about the share forgotten.

    Raises:
        BusyError: Another rebuild or change of this model is running.
        StorageError: The disk is full or read-only; what was current stays so.
        SpecError, NotFoundError, TrainingMismatchError, CurvatureError: See the stages.
    """
    options = options or RebuildOptions()
    with changing(store, spec.name):
        classifier = load_classifier(spec)
        layers = _layers(classifier)
        data = TrainingSet.open(classifier, spec.dataset, forgotten=Tombstones.open(store, spec.name).ids())
        with StageProgress(quiet=options.quiet) as progress:
            workspace, path = _run(classifier, layers, data, store, options, progress)
        if options.publish:
            store.publish(spec.name, path.name)
        workspace.remove()
        return path


def _run(
    classifier: Classifier,
    layers: Layers,
    data: TrainingSet,
    store: Store,
    options: RebuildOptions,
    progress: StageProgress,
) -> tuple[Workspace, Path]:
    spec = classifier.spec
    [dataset_sha256] = [data.fingerprint() for _ in progress.track("read data", [None], 1)]
    batch_size = options.batch_size or batch_size_for(options.memory, _widest(classifier, layers), len(data))
    key = {"spec": spec.model_dump(mode="json"), "weights": classifier.weights_sha256, "data": dataset_sha256}
    workspace = Workspace(store.directory(spec.name) / WORK, workspace_key(key | {"versions": _versions()}))
    found = _survey(classifier, data, layers, workspace, batch_size, progress)
    stages = Stages(classifier, data, layers, workspace, batch_size, options.memory, progress)
    embedding, shards = _embedding(stages)
    scales, kept = read_scales(workspace, shards)
    manifest = _manifest(classifier, data, layers, found, embedding, scales, kept, dataset_sha256, workspace.started)
    directory = workspace.directory / "bundle"
    _write_files(directory, classifier, data, embedding, scales, found, unit_rows(workspace, shards), progress)
    return workspace, seal(directory, manifest, store.bundles(spec.name))


def _embedding(stages: Stages) -> tuple[InfluenceEmbedding, list[str]]:
    return rebuild_exact(stages) if stages.classifier.spec.curvature.kind == "exact" else rebuild_ekfac(stages)


def _damping(classifier: Classifier) -> float:
    exact = classifier.spec.curvature.kind == "exact"
    return float(classifier.spec.curvature.damping or 0.0) if exact else damping_of(classifier)


def batch_size_for(memory: int, numbers: int, examples: int) -> int:
    """Examples of which each takes ``numbers`` floats, in a few copies, within an eighth of the memory."""
    return max(1, min(512, examples, memory // 8 // (numbers * 4 * 6)))


def _widest(classifier: Classifier, layers: Layers) -> int:
    """Numbers of one example that are held at once: all P for exact curvature, else those of one layer."""
    if classifier.spec.curvature.kind == "exact":
        return num_parameters(layers)
    return max(layer.numel for layer in layers.values())


def _layers(classifier: Classifier) -> Layers:
    layers = find_layers(classifier.model, classifier.spec.curvature.layers)
    if not layers:
        raise SpecError("the model has no Linear or Conv2d layer to explain", field="model")
    left_out = uncovered(classifier.model, layers)
    if left_out:
        share = sum(left_out.values()) / sum(p.numel() for p in classifier.model.parameters())
        names = ", ".join(list(left_out)[:5]) + (", ..." if len(left_out) > 5 else "")
        warnings.warn(
            f"{share:.1%} of the parameters take no part in the explanation: {names}", UncoveredWarning, stacklevel=2
        )
    return layers


def _survey(
    classifier: Classifier,
    data: TrainingSet,
    layers: Layers,
    workspace: Workspace,
    batch_size: int,
    progress: StageProgress,
) -> Survey:
    if not workspace.has("survey"):
        found = survey(classifier, data, layers, batch_size, progress)
        numbers = torch.tensor([found.accuracy, found.gradient_norm_ratio], dtype=torch.float64)
        workspace.save("survey", {"predictions": found.predictions, "labels": found.labels, "numbers": numbers})
    stored = workspace.load("survey")
    accuracy, ratio = stored["numbers"].tolist()
    if ratio > STATIONARY:
        warnings.warn(
            f"the objective's gradient norm is {ratio:.3g} of the mean example's (a minimum has less than "
            f"{STATIONARY}): influence predicts retraining only roughly; train longer, or check weight_decay",
            NotStationaryWarning,
            stacklevel=2,
        )
    return Survey(stored["predictions"], stored["labels"], accuracy, ratio)


def _manifest(
    classifier: Classifier,
    data: TrainingSet,
    layers: Layers,
    found: Survey,
    embedding: InfluenceEmbedding,
    scales: RowScales,
    kept: Tensor,
    dataset_sha256: str,
    started: datetime.datetime,
) -> Manifest:
    spec = classifier.spec
    left_out = uncovered(classifier.model, layers)
    return Manifest(
        model=spec.name,
        created=started.isoformat(timespec="seconds"),
        weights_sha256=classifier.weights_sha256,
        dataset_sha256=dataset_sha256,
        loss=spec.loss,
        weight_decay=spec.weight_decay,
        curvature=embedding.kind,
        damping=_damping(classifier),
        damping_relative=spec.curvature.relative,
        embedding_size=embedding.size,
        train_size=len(data),
        class_names=spec.class_names,
        input_shape=list(data.signature.shape),
        image_size=list(data.signature.image_size),
        image_mode=data.signature.mode,
        kept_energy=float(kept[scales.directed].mean()) if bool(scales.directed.any()) else 0.0,
        omitted_rows=int((~scales.directed).sum()),
        train_accuracy=found.accuracy,
        gradient_norm_ratio=found.gradient_norm_ratio,
        settings=spec.curvature.model_dump(mode="json"),
        versions=_versions(),
        uncovered=left_out,
        uncovered_share=sum(left_out.values()) / sum(p.numel() for p in classifier.model.parameters()),
    )


def _write_files(
    directory: Path,
    classifier: Classifier,
    data: TrainingSet,
    embedding: InfluenceEmbedding,
    scales: RowScales,
    found: Survey,
    rows: Iterator[Tensor],
    progress: StageProgress,
) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    write: dict[str, Callable[[Path], object]] = {
        files.ROWS: lambda path: write_rows(path, rows, embedding.size),
        files.SCALES: lambda path: write_scales(path, scales),
        files.FACTORS: lambda path: save_file(_on_cpu(embedding.tensors()), path),
        files.SPEC: lambda path: path.write_text(dump_spec(classifier.spec), encoding="utf-8"),
        files.WEIGHTS: lambda path: save_file(_on_cpu(classifier.model.state_dict()), path),
        files.CATALOG: lambda path: write_catalog(path, _entries(data, scales, found)),
    }
    for name in progress.track("write bundle", write, len(write)):
        write[name](directory / name)
        fault_point(f"bundle.written:{name}")


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _entries(data: TrainingSet, scales: RowScales, found: Survey) -> Iterator[CatalogEntry]:
    predictions, influences = found.predictions.tolist(), scales.self_influence.tolist()
    for row, label in enumerate(found.labels.tolist()):
        yield CatalogEntry(
            row=row,
            example_id=data.example_id(row),
            class_id=label,
            predicted_class_id=predictions[row],
            self_influence=influences[row],
            source=data.source(row),
            thumbnail=thumbnail(data.item(row)[0]),
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
