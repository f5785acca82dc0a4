"""On a CUDA device the same scores come out; runs where there is one, skips visibly elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.spec import ModelSpec, load_spec
from proponent.training.train_preset import train_preset

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def on(spec: ModelSpec, device: str) -> ModelSpec:
    return spec.model_copy(update={"device": device})


@pytest.mark.parametrize("kind", ["exact", "ekfac"])
def test_a_rebuild_and_its_answers_agree_with_the_cpu(kind: str, tmp_path: Path) -> None:
    train_preset("digits", tmp_path / "model")
    spec = load_spec(tmp_path / "model")
    spec = spec.model_copy(update={"curvature": spec.curvature.model_copy(update={"kind": kind})})
    answers = []
    for device in ("cpu", "cuda"):
        bundle = rebuild(on(spec, device), Store(tmp_path / device), RebuildOptions(quiet=True))
        explainer = Explainer.load(bundle, device=torch.device(device))
        _, tensor, _ = TrainingSet.open(explainer.classifier, spec.held_out, "held_out").item(0)
        [answer] = explainer.explain([tensor], [ExplainOptions(top_k=3)])
        answers.append([i.score for result in answer.results for i in result.proponents])
    assert answers[1] == pytest.approx(answers[0], rel=1e-3)
