"""A rebuild whose numbers are done and whose files are not: what is written and audited."""

from __future__ import annotations

import datetime
import importlib.metadata
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proponent.attribution.embedding.base import InfluenceEmbedding
from proponent.attribution.gradients.layers import frozen_parameters, uncovered
from proponent.attribution.inputs import form_of
from proponent.classifier import Classifier, load_classifier
from proponent.errors import MismatchError, SpecError
from proponent.index import bundle as files
from proponent.index.bundle import Manifest
from proponent.index.catalog import write_catalog
from proponent.index.faults import fault_point
from proponent.index.row_code import RowCode, write_code
from proponent.index.rows import write_rows, write_scales
from proponent.index.searchable import RowScales
from proponent.index.tensor_file import save_tensors
from proponent.rebuild.catalog_stage import catalog_entries
from proponent.rebuild.compression import Compression
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import unit_rows
from proponent.rebuild.signatures import with_axes, with_flags, with_vocabularies, with_whole_columns
from proponent.rebuild.stationarity import stored_ratio
from proponent.rebuild.survey import Survey
from proponent.rebuild.training_set import PROBED
from proponent.rebuild.workspace import workspace_key
from proponent.signature import InputSignature
from proponent.spec import dump_spec
from proponent.user_code.made_up import made_up_unpadded
from proponent.user_code.probe import check_code, probe
from proponent.user_code.source import code_sha256

LIBRARIES = ("proponent", "torch", "torchvision", "faiss-gpu", "faiss-cpu", "numpy", "safetensors")


def rebuild_key(classifier: Classifier, dataset_sha256: str) -> str:
    """What every stage of a rebuild depends on; stages of samples are named after those."""
    spec = classifier.spec.model_dump(mode="json", exclude={"samples"})
    parts = {
        "spec": spec,
        "code": code_sha256(classifier.spec),
        "weights": classifier.weights_sha256,
        "data": dataset_sha256,
        "versions": versions(),
    }
    return workspace_key(parts)


@dataclass(frozen=True)
class RebuildResult:
    """A rebuild before it is sealed: what an audit looks at.

    Attributes:
        compression: None for exact curvature.
        damping: As recorded in the manifest.
        distillation: What the manifest says of teachers; empty where there are none.
        code: Of the rows, where they hold fewer numbers than a query.
    """

    context: RebuildContext
    embedding: InfluenceEmbedding
    compression: Compression | None
    shards: list[str]
    scales: RowScales
    kept_energy: Tensor
    damping: float
    distillation: Mapping[str, object] = field(default_factory=dict)
    code: RowCode | None = None

    @property
    def row_size(self) -> int:
        """K, the numbers of a row."""
        return self.embedding.size if self.code is None else int(self.code.bases.shape[1])

    @property
    def gradient_norm_ratio(self) -> float:
        """||mean_i g_i + wd theta|| / mean_i ||g_i|| over covered parameters; zero where there are no gradients."""
        return stored_ratio(self.context.workspace)

    def stored_rows(self) -> Iterator[Tensor]:
        """Unit rows as the container holds them, [n, K] float16, in its order."""
        blocks = unit_rows(self.context.workspace, self.shards)
        return blocks if self.code is None else iter([torch.cat(list(blocks))[self.code.order]])

    def query_rows(self) -> Iterator[Tensor]:
        """Unit rows in the space of the queries, in the training set's order."""
        start = 0
        for block in unit_rows(self.context.workspace, self.shards):
            place = slice(start, start + len(block))
            start = place.stop
            yield block if self.code is None else self.code.lift(block, self.code.groups[place])


def manifest_of(
    result: RebuildResult, found: Survey, audit: Mapping[str, object], dataset_sha256: str, started: datetime.datetime
) -> Manifest:
    """The manifest of a rebuild, still without the checksums of its files."""
    classifier, data = result.context.classifier, result.context.data
    spec, scales, kept = classifier.spec, result.scales, result.kept_energy
    explains_frozen = spec.curvature.explains_frozen
    left_out = uncovered(classifier.model, result.context.layers, frozen=explains_frozen)
    frozen = {} if explains_frozen else frozen_parameters(classifier.model)
    whole = sum(p.numel() for p in classifier.model.parameters())
    return Manifest(
        model=spec.name,
        created=started.isoformat(timespec="seconds"),
        weights_sha256=classifier.weights_sha256,
        dataset_sha256=dataset_sha256,
        loss=spec.loss,
        weight_decay=spec.weight_decay,
        curvature=result.embedding.kind,
        damping=result.damping,
        damping_relative=spec.curvature.relative,
        embedding_size=result.row_size,
        train_size=len(data),
        class_names=spec.class_names,
        input_shape=list(data.signature.shape),
        image_size=list(data.signature.image_size),
        image_mode=data.signature.mode,
        kept_energy=float(kept[scales.has_direction].mean()) if bool(scales.has_direction.any()) else 0.0,
        omitted_rows=int((~scales.has_direction).sum()),
        train_accuracy=found.accuracy,
        gradient_norm_ratio=result.gradient_norm_ratio,
        settings=spec.curvature.model_dump(mode="json"),
        versions=versions(),
        uncovered=left_out,
        uncovered_share=sum(left_out.values()) / (whole - sum(frozen.values())),
        left_out=dict(result.context.left_out),
        frozen=frozen,
        frozen_share=sum(frozen.values()) / whole,
        audit=dict(audit),
        probes=_probes(result.context),
        teachers=spec.curvature.teachers,
        row_groups=0 if result.code is None else len(result.code.bases),
        query_size=0 if result.code is None else result.embedding.size,
        inputs=_signature(result.context).described(),
        distillation=dict(result.distillation),
    )


def _signature(context: RebuildContext) -> InputSignature:
    """What may be sent, by what all training examples are."""
    data = context.data
    found = with_flags(data.signature, data.readings.wholes)
    inputs = data.batch(data.alike(min(PROBED, context.batching.block), seed=0)).inputs
    found = with_vocabularies(found, context.classifier.model, inputs)
    examples = data.unpadded()
    # Made-up texts have several lengths; those of a data set may have one, which other tensors have by chance.
    made_up = made_up_unpadded(found, context.classifier.transform)
    alike = [each for each in made_up if examples and form_of(each) == form_of(examples[0])]
    return with_axes(with_whole_columns(found, data.probed_raws()), [*examples, *alike])


def _probes(context: RebuildContext) -> dict[str, Any]:
    """Results for made-up inputs; an example's range takes a block at most.

    Raises:
        SpecError: They are other results each time.
    """
    classifier, signature = context.classifier, context.data.signature
    positions = context.data.sample(min(PROBED, context.batching.block), seed=2)
    probes = probe(classifier, signature, context.data.batch(positions).inputs.cpu())
    _check_again(
        classifier, signature, probes, "it gives other results each time that it is called on the same input"
    )
    again = load_classifier(classifier.spec, device=classifier.device)
    _check_again(again, signature, probes, "its factory makes another one each time, with the same weights")
    return probes


def _check_again(classifier: Classifier, signature: InputSignature, probes: dict[str, Any], what: str) -> None:
    try:
        check_code(classifier, signature, probes)
    except MismatchError as error:
        raise SpecError(
            f"key '{error.field}': {what}: take what is random out of it, or give it a seed", field=error.field
        ) from error


def write_files(directory: Path, result: RebuildResult, found: Survey, progress: StageProgress) -> None:
    """Writes all files of a bundle but the manifest into a new directory."""
    classifier, embedding = result.context.classifier, result.embedding
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    write: dict[str, Callable[[Path], object]] = {
        files.ROWS: lambda path: write_rows(path, result.stored_rows(), result.row_size),
        files.SCALES: lambda path: write_scales(path, result.scales),
        files.FACTORS: lambda path: save_tensors(embedding.tensors(), path),
        files.SPEC: lambda path: path.write_text(dump_spec(classifier.spec), encoding="utf-8"),
        files.WEIGHTS: lambda path: save_tensors(classifier.state, path),
        files.CATALOG: lambda path: write_catalog(path, catalog_entries(result.context, result.scales, found)),
    }
    if (code := result.code) is not None:
        write[files.CODE] = lambda path: write_code(path, code)
    for name in progress.track("write bundle", write, len(write)):
        write[name](directory / name)
        fault_point(f"bundle.written:{name}")


def versions() -> dict[str, str]:
    """Installed versions of the libraries that a bundle depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
