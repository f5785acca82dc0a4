"""Opening what a bundle holds, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from proponent.attribution.embedding.base import ExactEmbedding, InfluenceEmbedding
from proponent.attribution.embedding.subspace import SubspaceEmbedding
from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier, load_classifier
from proponent.errors import CorruptBundleError, MismatchError, SpecError
from proponent.index import bundle as files
from proponent.index.bundle import Manifest
from proponent.spec import FIRST_COVER, ModelSpec, parse_spec
from proponent.user_code.probe import REASON, check_code


def read_spec(bundle: Path) -> ModelSpec:
    """The spec stored in a bundle; its weights are the bundle's own, whatever became of the file it names."""
    path = bundle / files.SPEC
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CorruptBundleError(f"spec cannot be read: {path}: {error}", field=files.SPEC) from error
    if isinstance(content, dict) and isinstance(content.get("curvature"), dict):
        # As bundles did that know no such keys.
        content["curvature"] = {"frozen": "explain", "cover": list(FIRST_COVER), **content["curvature"]}
    return parse_spec(content, origin=str(path)).model_copy(
        update={"weights": str((bundle / files.WEIGHTS).absolute())}
    )


def check_weights(classifier: Classifier, manifest: Manifest, weights: Path) -> None:
    """Raises MismatchError where the loaded weights are not those that the bundle was built for."""
    if classifier.weights_sha256 != manifest.weights_sha256:
        raise MismatchError(
            f"bundle {manifest.digest[:12]} was built for weights {manifest.weights_sha256[:12]}, but the model has "
            f"loaded weights {classifier.weights_sha256[:12]} from {weights}: run proponent rebuild",
            field="weights",
        )


def load_bundled_classifier(
    bundle: Path, manifest: Manifest, weights: Path | None, device: torch.device | None
) -> Classifier:
    """The classifier of a bundle, with its own weights or those deployed.

    Raises:
        MismatchError: The weights are not those that the bundle was built for, or model, transform or loss are not
            the code that it was built with.
    """
    path = weights or bundle / files.WEIGHTS
    try:
        classifier = load_classifier(read_spec(bundle), weights=path, device=device)
    except SpecError as error:
        if weights is None and error.field == "weights":
            raise MismatchError(
                f"the code of the model is not what the bundle was built with: {error.message}: restore the code, or "
                "run proponent rebuild",
                field="model",
                reason=REASON,
            ) from error
        raise
    check_weights(classifier, manifest, path)
    check_code(classifier, manifest.signature, manifest.probes)
    return classifier


def load_embedding(path: Path, kind: str, layers: Layers) -> InfluenceEmbedding:
    """The embedding stored in a bundle."""
    try:
        tensors = load_file(path)
        if kind == "exact":
            return ExactEmbedding.from_tensors(tensors, layers)
        return SubspaceEmbedding.from_tensors(kind, tensors, layers)
    except (SafetensorError, OSError, KeyError) as error:
        raise CorruptBundleError(f"factors cannot be read: {path}: {error}", field=path.name) from error
