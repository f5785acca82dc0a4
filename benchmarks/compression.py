"""What compression costs: recall@10 of rows with K numbers against the same C in full dimension.

For every damping and D the layers' subspaces are fitted once; every K then takes the first stage's rows y (before
the second stage, whose operator is another one on purpose) against EK-FAC at the same damping in all P
dimensions, over all training examples, for held-out queries at their predicted labels. Norms of theta- and
l-RelatIF are those of the full dimension on both sides, so the figures show the compression of the directions.

Run: ``python benchmarks/compression.py SPEC [--dampings 10,100] [--sizes 8192,16384,32768]``.
Prints a table, then one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from proponent.attribution.agreement import top_overlap
from proponent.attribution.joint import joint_basis
from proponent.attribution.layers import find_layers
from proponent.attribution.whitening import Whitening, make_whitening, whiten
from proponent.classifier import Classifier, load_classifier
from proponent.rebuild import compression as passes
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.stages import Stages
from proponent.rebuild.training_set import Batch, TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec

WIDTHS = (256, 512, 768, 1024)
TOP = 10


@dataclass(frozen=True)
class Pass:
    """One pass over the training set: full products with the queries, z, and the full norms; N rows each."""

    products: Tensor
    z: Tensor
    norms: Tensor
    ihvp_norms: Tensor
    scales: Tensor


def predicted(classifier: Classifier, batch: Batch) -> Batch:
    """The batch with its labels replaced by the model's predictions."""
    with torch.no_grad():
        labels = classifier.loss.predict(classifier.model(batch.inputs))
    return replace(batch, labels=labels)


def run(stages: Stages, whitening: Whitening, subspaces: Mapping, queries: Mapping[str, Tensor]) -> Pass:
    """Everything that the comparison needs, streaming the rows."""
    parts = []
    for batch in stages.progress.track(
        "rows", stages.data.batches(stages.batch_size), -(-len(stages.data) // stages.batch_size)
    ):
        scaled, gradients = scaled_gradients(stages.classifier, stages.layers, batch)
        z, products, energy, damped = [], 0.0, 0.0, 0.0
        for name, value in whiten(whitening, gradients):
            z.append(subspaces[name].compress(subspaces[name].select(value)))
            products = products + (queries[name].flatten(1) @ value.dense().flatten(1).mT).double()
            whole, weighted = value.energies()
            energy, damped = energy + whole, damped + weighted
        parts.append((products, torch.cat(z, dim=1), energy.sqrt(), damped.sqrt(), scaled.scale))
    products, z, norms, ihvp, scales = zip(*parts, strict=True)
    return Pass(torch.cat(products, 1), torch.cat(z), torch.cat(norms), torch.cat(ihvp), torch.cat(scales))


def recalls(found: Pass, query_z: Tensor, basis: Tensor) -> dict[str, tuple[float, float]]:
    """Recall@10 of proponents and opponents by measure."""
    ours = (query_z @ basis).double() @ (found.z @ basis).double().mT
    weights = {"IF": found.scales, "theta-RelatIF": 1 / found.ihvp_norms, "l-RelatIF": 1 / found.norms}
    out = {}
    for name, weight in weights.items():
        left, right = ours * weight, found.products * weight
        out[name] = (float(top_overlap(left, right, TOP).mean()), float(top_overlap(-left, -right, TOP).mean()))
    return out


def rows(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One row for each damping, D and K."""
    spec = load_spec(options.spec)
    classifier = load_classifier(spec)
    layers = find_layers(classifier.model)
    data = TrainingSet.open(classifier, spec.dataset)
    held_out = TrainingSet.open(classifier, spec.held_out, "held_out")
    progress = StageProgress()
    with tempfile.TemporaryDirectory() as work, progress:
        stages = Stages(classifier, data, layers, Workspace(Path(work) / "f", "k"), options.batch, 8 << 30, progress)
        factors = fit_factors(stages)
        batch = predicted(classifier, held_out.batch(held_out.sample(options.queries, 1)))
        _, query_gradients = scaled_gradients(classifier, layers, batch)
        for number, (damping, size) in enumerate(itertools.product(options.dampings, options.sizes)):
            curvature = spec.curvature.model_copy(update={"subspace_size": size})
            sized = replace(classifier, spec=spec.model_copy(update={"curvature": curvature}))
            here = replace(stages, classifier=sized, workspace=Workspace(Path(work) / str(number), "k"))
            whitening = make_whitening(factors, damping, relative=True, device=classifier.device)
            subspaces = passes._subspaces(here, whitening)
            whitened = {name: value.dense() for name, value in whiten(whitening, query_gradients)}
            found = run(here, whitening, subspaces, whitened)
            query_z = torch.cat([subspaces[n].project(query_gradients[n]) for n in subspaces], dim=1)
            for width in WIDTHS:
                basis = joint_basis(found.z, found.norms, found.scales, width, seed=0)
                kept = float(((found.z @ basis).double().square().sum(1) / found.norms.square()).mean())
                row = {"damping": damping, "D": found.z.shape[1], "K": basis.shape[1], "kept_energy": round(kept, 3)}
                recall = {k: [round(x, 3) for x in v] for k, v in recalls(found, query_z, basis).items()}
                yield row | {"recall": recall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--dampings", type=lambda text: [float(x) for x in text.split(",")], default=[10.0, 100.0])
    parser.add_argument("--sizes", type=lambda text: [int(x) for x in text.split(",")], default=[8192, 16384, 32768])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    print(f"{'damping':>8} {'D':>6} {'K':>5} {'kept':>6}  recall@10 of proponents/opponents: IF, theta-, l-RelatIF")
    found = []
    for row in rows(options):
        found.append(row)
        shown = "  ".join(f"{pro:.3f}/{con:.3f}" for pro, con in row["recall"].values())
        print(f"{row['damping']:>8g} {row['D']:>6} {row['K']:>5} {row['kept_energy']:>6}  {shown}", flush=True)
    print(json.dumps({"spec": options.spec.name, "queries": options.queries, "results": found}))


if __name__ == "__main__":
    main()
