"""The audit inside every rebuild: seconds, on a few held-out queries, stored in the manifest.

- ``reference``: agreement of the stored rows with the same inverse curvature in full dimension: the dense
  inverse in float64 (exact), or EK-FAC without any compression and without the joint second stage. For EK-FAC
  the two operators differ on purpose, so this bounds the agreement from below; ``compression`` compares before
  the second stage, like with like.
- ``covered_gradient_energy``: the mean share of a gradient's squared norm that lies in the layers explained. What
  it lacks lies in normalisation layers and embeddings, and in layers that the spec's ``layers`` leaves out.
- ``distinct_in_top_10``: how many different examples fill the top ten lists of all queries (of at most
  10 x queries). RelatIF's point is that its lists differ from query to query (Barshan et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from proponent.attribution.agreement import spearman, top_overlap
from proponent.attribution.embedding.whitening import Whitening, whiten
from proponent.attribution.functional import call_with
from proponent.attribution.gradients.capture import eager
from proponent.attribution.gradients.layer_gradients import LayerGradients, flat_gradients
from proponent.attribution.gradients.layers import num_parameters
from proponent.attribution.gradients.pullback import pulled_back
from proponent.classifier import Classifier
from proponent.options import Measure
from proponent.rebuild.bundle_writer import RebuildResult
from proponent.rebuild.compression import Compression
from proponent.rebuild.exact import SPECTRUM
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import Batch, TrainingSet

QUERIES = 32
ROWS = 2000
TOP = 10


@dataclass(frozen=True)
class Queries:
    """Held-out inputs at their true labels, as gradients and as phi [Q, K] float64 (unit-scaled both)."""

    gradients: LayerGradients
    phi: Tensor
    origin: str
    covered: float


def quick_audit(result: RebuildResult) -> dict[str, object]:
    """The metrics of a rebuild; see the module."""
    queries = _queries(result)
    weights = {measure: result.scales.of(measure) for measure in Measure}
    phi = queries.phi.cpu()
    products = torch.cat([phi @ block.double().mT for block in result.query_rows()], dim=1)
    positions = result.context.data.sample(ROWS, 3)
    metrics: dict[str, object] = {
        "queries": len(products),
        "queries_from": queries.origin,
        "reference_rows": len(positions),
        "covered_gradient_energy": queries.covered,
        "distinct_in_top_10": {m.value: _distinct(products * w) for m, w in weights.items()},
    }
    stored = (products * weights[Measure.INFLUENCE])[:, positions]
    return metrics | _references(result, queries, stored, positions)


def _queries(result: RebuildResult) -> Queries:
    context = result.context
    spec = context.classifier.spec
    held_out = spec.held_out is not None
    factory, key = (spec.held_out, "held_out") if spec.held_out else (spec.dataset, "dataset")
    data = TrainingSet.open(context.classifier, factory, key)
    if held_out:
        data.check_factory(factory)
    fitting = context.batching.memory // 8 // (4 * num_parameters(context.layers))
    batch = data.batch(data.sample(max(1, min(QUERIES, fitting, context.batching.block)), 4))
    scaled, gradients = scaled_gradients(context.classifier, context.layers, batch)
    phi = result.embedding.to(context.device).embed(gradients).double()
    inside = torch.stack([gradient.sum_and_squares()[1] for gradient in gradients.values()]).sum(dim=0)
    whole = torch.stack(
        [_squared_norm(context.classifier, x, d) for x, d in zip(batch.inputs, scaled.unit, strict=True)]
    )
    covered = float((inside[whole > 0] / whole[whole > 0]).mean()) if bool((whole > 0).any()) else 1.0
    return Queries(gradients, phi, "held-out set" if held_out else "training set", covered)


def _squared_norm(classifier: Classifier, value: Tensor, output_gradient: Tensor) -> Tensor:
    """Of the gradient over all trained parameters of one input, given the gradient at its outputs; float64."""
    model, frozen = classifier.model, classifier.spec.curvature.explains_frozen
    parameters = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if frozen or p.requires_grad}
    with torch.enable_grad(), eager():
        outputs = call_with(model, parameters, value[None])
    found = pulled_back(outputs, list(parameters.values()), output_gradient[None])
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in found if gradient is not None]
    return torch.stack(norms).square().sum()


def _distinct(scores: Tensor) -> int:
    k = min(TOP, scores.shape[1])
    return len(set(scores.topk(k, dim=1).indices.flatten().tolist()))


def _references(result: RebuildResult, queries: Queries, stored: Tensor, positions: list[int]) -> dict[str, object]:
    if result.compression is None:
        return {"reference": "dense inverse, float64", **_agreement(stored, _dense(result, queries, positions))}
    whole, before = _full_dimension(result, result.compression, queries, positions)
    return {
        "reference": "EK-FAC in full dimension",
        **_agreement(stored, whole),
        "compression": _agreement(before, whole),
    }


def _agreement(ours: Tensor, reference: Tensor) -> dict[str, float]:
    k = min(TOP, ours.shape[1])
    return {
        "spearman": float(spearman(ours, reference).mean()),
        "proponents_overlap_at_10": float(top_overlap(ours, reference, k).mean()),
        "opponents_overlap_at_10": float(top_overlap(-ours, -reference, k).mean()),
    }


def _dense(result: RebuildResult, queries: Queries, positions: list[int]) -> Tensor:
    """g_q^T H^-1 g_i by the stored spectrum in float64, [Q, R]."""
    spectrum = result.context.workspace.load(SPECTRUM)
    damped = spectrum["eigenvalues"] + result.damping
    vectors = spectrum["eigenvectors"]
    left = flat_gradients(queries.gradients).double().cpu() @ vectors / damped

    def products(batch: Batch) -> dict[str, Tensor]:
        scaled, gradients = scaled_gradients(result.context.classifier, result.context.layers, batch)
        right = flat_gradients(gradients).double().cpu() @ vectors
        return {"whole": (left @ (right * scaled.scale.cpu()[:, None]).mT).mT}

    return result.context.of_each(positions, products)["whole"].mT


def _full_dimension(
    result: RebuildResult, compression: Compression, queries: Queries, positions: list[int]
) -> tuple[Tensor, Tensor]:
    """Whitened products in all P dimensions and after the compression, both [Q, R]."""
    left = {name: value.dense() for name, value in whiten(compression.whitening, queries.gradients)}
    y = compression.coordinates(queries.gradients).double()

    def products(batch: Batch) -> dict[str, Tensor]:
        scale, whole, coordinates = _products(result, compression, left, batch)
        return {"whole": (whole * scale).mT, "before": ((y @ coordinates.double().mT) * scale).mT}

    found = result.context.of_each(positions, products)
    return found["whole"].mT.cpu(), found["before"].mT.cpu()


def _products(
    result: RebuildResult, compression: Compression, left: Mapping[str, Tensor], batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    scaled, gradients = scaled_gradients(result.context.classifier, result.context.layers, batch)
    total = _whole_products(compression.whitening, left, gradients)
    return scaled.scale, total, compression.coordinates(gradients)


def _whole_products(whitening: Whitening, left: Mapping[str, Tensor], gradients: LayerGradients) -> Tensor:
    parts = [left[name].flatten(1) @ value.dense().flatten(1).mT for name, value in whiten(whitening, gradients)]
    return torch.stack(parts).double().sum(dim=0)
