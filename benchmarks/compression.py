"""What compression costs: recall@10 of rows with K numbers against the same C in full dimension.

For every damping and D the layers' subspaces are fitted once; every K then takes the first stage's rows y (before
the second stage, whose operator is another one on purpose) against EK-FAC at the same damping in all P
dimensions, over all training examples, for held-out queries at their predicted labels. Norms of theta- and
l-RelatIF are those of the full dimension on both sides, so the figures show the compression of the directions.

Beside recall stands the linear datamodeling score of the same K numbers with the joint second stage, at the true
labels of other held-out queries.

Run: ``python benchmarks/compression.py SPEC --truth DIRECTORY [--dampings 10,100] [--sizes 8192,16384,32768]``.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from commands import RESULTS, write
from torch import Tensor

from proponent.attribution.agreement import linear_datamodeling, top_overlap
from proponent.attribution.embedding.joint import joint_basis
from proponent.attribution.embedding.whitening import Whitening, whiten
from proponent.attribution.gradients.layers import find_layers
from proponent.audit.datamodel import AUDIT, GroundTruth, ground_truth
from proponent.audit.tuning import SECOND_DAMPINGS
from proponent.classifier import Classifier, load_classifier
from proponent.rebuild.batching import Batching
from proponent.rebuild.compression import narrow
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.directions import stored_whitening
from proponent.rebuild.ekfac import fit_factors
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.rows_stage import scaled_gradients
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


def run(context: RebuildContext, whitening: Whitening, subspaces: Mapping, queries: Mapping[str, Tensor]) -> Pass:
    """Everything that the comparison needs, streaming the rows."""
    parts = []
    blocks = context.batching.count(len(context.data))
    for batch in context.progress.track("rows", context.batches(), blocks):
        scaled, gradients = scaled_gradients(context.classifier, context.layers, batch)
        z, products, energy, damped = [], 0.0, 0.0, 0.0
        for name, value in whiten(whitening, gradients):
            z.append(subspaces[name].compress_all(value, whitening[name].root)[0])
            products = products + (queries[name].flatten(1) @ value.dense().flatten(1).mT).double()
            whole, weighted = value.energy(), value.damped_energy()
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


def faithfulness(found: Pass, y: Tensor, asked: Tensor, truth: GroundTruth) -> dict[str, float]:
    """LDS with the joint second stage of rows y [N, K] for queries [Q, K], by second damping."""
    rows, weighted = y.double(), y.double() * found.scales[:, None]
    moment = weighted.mT @ rows / len(rows)
    out = {}
    for second in SECOND_DAMPINGS:
        damped = moment + second * moment.trace() / len(moment) * torch.eye(len(moment), dtype=torch.float64)
        scores = torch.linalg.solve(damped, asked.mT).mT @ weighted.mT
        out[f"{second:g}"] = float(linear_datamodeling(scores, truth.subsets, truth.losses).mean())
    return out


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each damping, D and K."""
    spec = load_spec(options.spec)
    classifier = load_classifier(spec)
    layers = find_layers(classifier.model)
    data = TrainingSet.open(classifier, spec.dataset)
    held_out = TrainingSet.open(classifier, spec.held_out, "held_out")
    progress = StageProgress(quiet=True)
    truth = ground_truth(
        spec,
        options.truth,
        data,
        held_out,
        purpose=AUDIT,
        subsets=options.subsets,
        queries=200,
        seeds=1,
        jobs=options.jobs,
        progress=progress,
    )
    with tempfile.TemporaryDirectory() as work, progress:
        context = RebuildContext(
            classifier, layers, data, Batching.of(options.batch), Workspace(Path(work) / "f", "k"), progress
        )
        factors = fit_factors(context)
        batch = predicted(classifier, held_out.batch(held_out.sample(options.queries, 1)))
        _, asked = scaled_gradients(classifier, layers, batch)
        asked_scale, truthful = scaled_gradients(classifier, layers, held_out.batch(truth.positions))
        for number, (damping, size) in enumerate(itertools.product(options.dampings, options.sizes)):
            curvature = spec.curvature.model_copy(update={"subspace_size": size})
            sized = replace(classifier, spec=spec.model_copy(update={"curvature": curvature}))
            here = replace(context, classifier=sized, workspace=Workspace(Path(work) / str(number), "k"))
            subspaces, whitening = narrow(here, factors, damping), stored_whitening(here)
            whitened = {name: value.dense() for name, value in whiten(whitening, asked)}
            found = run(here, whitening, subspaces, whitened)
            query_z, truth_z = (
                torch.cat([subspaces[n].project(gradients[n]) for n in subspaces], dim=1)
                for gradients in (asked, truthful)
            )
            for width in WIDTHS:
                basis = joint_basis(found.z, found.norms, found.scales, width, seed=0)
                kept = float(((found.z @ basis).double().square().sum(1) / found.norms.square()).mean())
                row = {"damping": damping, "D": found.z.shape[1], "K": basis.shape[1], "kept_energy": round(kept, 3)}
                recall = {k: [round(x, 3) for x in v] for k, v in recalls(found, query_z, basis).items()}
                y = (truth_z @ basis).double() * asked_scale.scale[:, None]
                yield row | {"recall": recall, "lds": faithfulness(found, found.z @ basis, y, truth)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--dampings", type=lambda text: [float(x) for x in text.split(",")], default=[10.0, 100.0])
    parser.add_argument("--sizes", type=lambda text: [int(x) for x in text.split(",")], default=[8192, 16384, 32768])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--truth", type=Path, required=True, help="directory that keeps retrained models' losses")
    parser.add_argument("--subsets", type=int, default=12, help="half-subsets retrained for the scores")
    parser.add_argument("--jobs", type=int, default=1, help="processes for retraining")
    parser.add_argument("--out", type=Path, default=RESULTS / "compression.json")
    options = parser.parse_args()
    print("| damping | D | K | kept | recall@10, proponents/opponents: IF | theta-RelatIF | l-RelatIF | LDS (c) |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    for row in rows(options):
        found.append(row)
        recall = " | ".join(f"{pro:.3f}/{con:.3f}" for pro, con in row["recall"].values())
        second, lds = max(row["lds"].items(), key=lambda pair: pair[1])
        print(
            f"| {row['damping']:g} | {row['D']} | {row['K']} | {row['kept_energy']} | {recall} "
            f"| {lds:.3f} ({second}) |",
            flush=True,
        )
        about = {"spec": options.spec.name, "queries": options.queries, "subsets": options.subsets}
        write(options.out, about | {"results": found}, torch.get_num_threads())


if __name__ == "__main__":
    main()
