"""The three measures of exact curvature at tiny dampings, against a dense inverse in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from proponent.explainer import Explainer
from proponent.index import bundle as files
from proponent.index.rows import InfluenceIndex
from proponent.index.store import Store
from proponent.inspection.verify import verify
from proponent.options import ExplainOptions, Measure
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.results import Explanation, Influence
from proponent.spec import load_spec

SHRINK = 4.0
"""Of inputs, so that the largest eigenvalue lies below 1 and a damping of 1e-10 is within the floor."""


@dataclass(frozen=True)
class Shrunk:
    """A three-class logistic regression without weight decay, its Hessian written down in float64."""

    theta: Tensor
    features: Tensor
    labels: Tensor

    @classmethod
    def of(cls, root: Path) -> tuple[Path, Shrunk]:
        path = tiny.project(root, count=120, weight_decay=0.0, random_labels=True, expected_accuracy=0)
        stored, state = load_file(root / "data.safetensors"), load_file(root / "weights.safetensors")
        save_file({**state, "1.weight": state["1.weight"] * SHRINK}, root / "weights.safetensors")
        normalized = {"mean": [0.0], "std": [SHRINK], "size": [tiny.SIDE, tiny.SIDE]}
        tiny.change(path, transform={"factory": "proponent.datasets.transforms:normalized", "kwargs": normalized})
        theta = torch.cat([state["1.weight"] * SHRINK, state["1.bias"][:, None]], dim=1).double()
        return path, cls(theta, cls.seen(stored["pixels"].float()[:, None] / 255), stored["labels"])

    @staticmethod
    def seen(inputs: Tensor) -> Tensor:
        return torch.nn.functional.pad((inputs / SHRINK).double().flatten(1), (0, 1), value=1.0)

    def gradients(self, features: Tensor, labels: Tensor) -> Tensor:
        residual = (features @ self.theta.mT).softmax(1) - torch.nn.functional.one_hot(labels, 3)
        return (residual[:, :, None] * features[:, None, :]).flatten(1)

    def inverse(self, damping: float) -> Tensor:
        p = (self.features @ self.theta.mT).softmax(1)
        outputs = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("ncd,ni,nj->cidj", outputs, self.features, self.features) / len(p)
        values, vectors = torch.linalg.eigh(hessian.reshape(self.theta.numel(), -1))
        return (vectors / (values.clamp(min=0) + damping)) @ vectors.mT

    def scores(self, inputs: Tensor, damping: float) -> dict[Measure, Tensor]:
        features = self.seen(inputs)
        queries = self.gradients(features, (features @ self.theta.mT).argmax(1))
        rows, inverse = self.gradients(self.features, self.labels), self.inverse(damping)
        scores, solved = queries @ inverse @ rows.mT, rows @ inverse
        return {
            Measure.INFLUENCE: scores,
            Measure.THETA_RELATIF: scores / solved.norm(dim=1),
            Measure.L_RELATIF: scores / (rows * solved).sum(dim=1).sqrt(),
        }


def recall(found: Sequence[Influence], truth: Tensor) -> float:
    """Share of ten that score as high as the oracle's tenth, so that one of two equal examples is as good."""
    tenth = truth.topk(10).values[-1]
    least = float(tenth - 1e-6 * tenth.abs())
    return sum(float(truth[int(i.example_id.split("/")[1])]) >= least for i in found) / 10


@pytest.mark.parametrize("damping", [1e-6, 1e-8, 1e-9, 1e-10])
def test_tiny_damping_keeps_every_measure(tmp_path: Path, damping: float) -> None:
    path, model = Shrunk.of(tmp_path)
    spec = load_spec(tiny.change(path, curvature={"kind": "exact", "damping": damping}))
    bundle = rebuild(spec, Store(tmp_path / "store"), RebuildOptions(quiet=True))
    inputs = tiny.inputs(20)
    scores = model.scores(torch.stack(inputs), damping)
    options = [ExplainOptions(top_k=10, measures=tuple(Measure))] * len(inputs)
    shrunk = [value / SHRINK for value in inputs]
    recalls: dict[Measure, list[float]] = {measure: [] for measure in Measure}
    for position, answer in enumerate(Explainer.load(bundle).explain(shrunk, options)):
        assert isinstance(answer, Explanation)
        for result in answer.results:
            truth = scores[result.measure][position]
            recalls[result.measure] += [recall(result.proponents, truth), recall(result.opponents, -truth)]
    assert {m: sum(values) / len(values) >= 0.98 for m, values in recalls.items()} == dict.fromkeys(Measure, True)
    scales = InfluenceIndex.open(bundle / files.ROWS, bundle / files.SCALES, model.theta.numel()).scales
    norms = (model.gradients(model.features, model.labels) @ model.inverse(damping)).norm(dim=1)
    torch.testing.assert_close(scales.norms / scales.relative_theta, norms, rtol=1e-5, atol=0)
    assert verify(bundle, sample=20).whole
