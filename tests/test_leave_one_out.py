"""The sign and the size of influence, against models really retrained without one example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from proponent.datasets import digits
from proponent.explainer import Explainer
from proponent.index.scan import Query
from proponent.index.search import exact_scores
from proponent.index.store import Store
from proponent.options import Measure, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.stages import Stopwatch
from softmax_regression import Regression, chosen_rows, train

COUNT = 1437
"""All training digits: with fewer, one example's own weight in the curvature makes the change larger than I / N."""
WEIGHT_DECAY = 1e-2
TEST_POINTS = 5
REMOVED_PER_END = 8
REMOVED_AT_RANDOM = 20


def pixels(dataset: digits.ArrayImages) -> Regression:
    """Digits as a softmax regression sees them."""
    values = torch.from_numpy(dataset.images).double().flatten(1) / 255
    features = torch.nn.functional.pad(values, (0, 1), value=1.0)
    return Regression(features, torch.from_numpy(dataset.labels), WEIGHT_DECAY)


def build(root: Path, theta: Tensor) -> Explainer:
    """A bundle of the trained model, by a rebuild as users run it."""
    save_file(
        {"linear.weight": theta[:, :-1].float().contiguous(), "linear.bias": theta[:, -1].float().contiguous()},
        root / "weights.safetensors",
    )
    content = {
        "name": "digits",
        "model": {"factory": "proponent.models.logistic:LogisticRegression", "kwargs": {"inputs": 64, "classes": 10}},
        "weights": "weights.safetensors",
        "dataset": {"factory": "proponent.datasets.digits:train", "kwargs": {}},
        "class_names": list("0123456789"),
        "weight_decay": WEIGHT_DECAY,
        "expected_accuracy": 0.9,
    }
    (root / "explain.yaml").write_text(yaml.safe_dump(content))
    return Explainer.load(rebuild(load_spec(root), Store(root / "store"), RebuildOptions(quiet=True)))


def influences(explainer: Explainer, test: Regression) -> Tensor:
    """Influence of every training example on each test point's loss at its true label, ``[N, tests]``."""
    inputs = [row[:-1].reshape(1, 8, 8).float() for row in test.features]
    targets = [Target(label) for label in test.labels.tolist()]
    columns = []
    for query in explainer.embed(inputs, targets, Stopwatch()):
        assert not isinstance(query, Exception)
        asked = Query(query.direction, query.norm, COUNT)
        columns.append(exact_scores(explainer.index, asked, range(COUNT), Measure.INFLUENCE))
    return torch.tensor(columns, dtype=torch.float64).T


@dataclass(frozen=True)
class Retrained:
    """Predicted and real change of loss, ``[removed rows, test points]``."""

    predicted: Tensor
    real: Tensor


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    training, test = pixels(digits.train()), pixels(digits.test(TEST_POINTS))
    theta, factor = train(training)
    scores = influences(build(tmp_path_factory.mktemp("digits"), theta), test)
    rows, before = chosen_rows(scores, REMOVED_PER_END, REMOVED_AT_RANDOM), test.losses(theta)
    after = [test.losses(training.without(row).minimum(theta, factor)) for row in rows]
    return Retrained(scores[rows] / COUNT, torch.stack(after) - before)


def test_enough_models_were_retrained(retrained: Retrained) -> None:
    assert len(retrained.real) >= 50


def test_removing_a_proponent_raises_the_loss_by_its_influence_over_n(retrained: Retrained) -> None:
    predicted, real = retrained.predicted.flatten(), retrained.real.flatten()
    correlation = float(torch.corrcoef(torch.stack([predicted, real]))[0, 1])
    slope = float(predicted @ real / (predicted @ predicted))
    assert correlation >= 0.99
    assert 0.9 <= slope <= 1.1


def test_every_test_point_for_itself(retrained: Retrained) -> None:
    for predicted, real in zip(retrained.predicted.T, retrained.real.T, strict=True):
        assert float(torch.corrcoef(torch.stack([predicted, real]))[0, 1]) >= 0.99
        assert 0.9 <= float(predicted @ real / (predicted @ predicted)) <= 1.1


def test_signs_agree_wherever_an_influence_is_felt(retrained: Retrained) -> None:
    felt = retrained.real.abs() > 0.05 * retrained.real.abs().amax(dim=0)
    assert int(felt.sum()) > 50
    assert torch.equal(retrained.predicted[felt].sign(), retrained.real[felt].sign())
