"""A layer that does next to nothing takes no part in theta-RelatIF, as with exact curvature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny
from proponent.attribution.agreement import top_overlap
from proponent.attribution.curvature.factors import LEAST_SHARE, floored
from proponent.attribution.losses import get_loss
from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import Measure, Target
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.stages import Stopwatch
from proponent.training.loop import fit, seeded

pytestmark = [
    pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning"),
    pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning"),
]
COUNT, QUERIES, WEIGHT_DECAY = 200, 20, 0.01
MAIN = ["body", "head"]
MODULE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.body, self.head = nn.Linear(36, 6), nn.Linear(6, 3)
        self.branch, self.end = nn.Linear(36, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(self.body(x).tanh()) + self.size * self.end(self.branch(x).tanh())
"""


class Branched:
    """A network trained to its minimum without the branch, which is then given a size."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "branched_module.py").write_text(MODULE)
        (root / "branched_data.py").write_text(tiny.MODULE)
        pixels, labels = tiny.pictures(COUNT)
        noise = torch.Generator().manual_seed(3)
        flipped = torch.rand(COUNT, generator=noise) < 0.15
        labels = torch.where(flipped, torch.randint(3, (COUNT,), generator=noise), labels)
        save_file({"pixels": pixels, "labels": labels}, root / "data.safetensors")
        with seeded(0):
            layers = {
                "body": nn.Linear(36, 6),
                "head": nn.Linear(6, 3),
                "branch": nn.Linear(36, 6),
                "end": nn.Linear(6, 3),
            }
        main = nn.Sequential(nn.Flatten(), layers["body"], nn.Tanh(), layers["head"])
        loss = get_loss("cross_entropy").per_example
        inputs = pixels.float()[:, None] / 255
        fit(main, inputs, labels, loss, weight_decay=WEIGHT_DECAY, optimizer="lbfgs", epochs=300)
        save_file(nn.ModuleDict(layers).state_dict(), root / "weights.safetensors")

    def explained(self, size: float, **curvature: Any) -> Explainer:
        content = {
            "name": "branched",
            "model": {"factory": "branched_module:Net", "kwargs": {"size": size}},
            "weights": "weights.safetensors",
            "dataset": {"factory": "branched_data:Images"},
            "weight_decay": WEIGHT_DECAY,
            "class_names": tiny.CLASSES,
            "expected_accuracy": 0.0,
            "curvature": curvature,
        }
        (self.root / "explain.yaml").write_text(yaml.safe_dump(content))
        return Explainer.load(rebuild(load_spec(self.root), Store(self.root / "store"), RebuildOptions(quiet=True)))


def relative(explainer: Explainer) -> Tensor:
    """theta-RelatIF of the training examples for held-out pictures, [Q, N]."""
    directions = []
    for query in explainer.embed(tiny.inputs(QUERIES), [Target()] * QUERIES, Stopwatch()):
        assert not isinstance(query, Exception)
        directions.append(query.direction)
    products = explainer.index.products(torch.stack(directions), precise=True).double()
    return products * explainer.index.scales.of(Measure.THETA_RELATIF)


def norms(explainer: Explainer) -> Tensor:
    """``||C^-1 g||`` of the training examples, [N]."""
    return explainer.index.scales.norms / explainer.index.scales.relative_theta


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> Branched:
    return Branched(tmp_path_factory.mktemp("branched"))


@pytest.fixture(scope="module")
def exact(branched: Branched) -> Tensor:
    return relative(branched.explained(0.0, kind="exact", layers=MAIN))


@pytest.fixture(scope="module")
def alone(branched: Branched) -> Explainer:
    return branched.explained(0.0, kind="ekfac", layers=MAIN)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 0.0])
def test_a_useless_branch_changes_neither_norms_nor_order(
    branched: Branched, exact: Tensor, alone: Explainer, size: float
) -> None:
    found = branched.explained(size, kind="ekfac")
    torch.testing.assert_close(norms(found), norms(alone), rtol=0.05, atol=0)
    ours, reference = (float(top_overlap(relative(e), exact, 10).mean()) for e in (found, alone))
    assert ours >= reference - 0.03


@given(
    st.dictionaries(st.text(min_size=1, max_size=2), st.floats(0, 1e6), min_size=1),
    st.floats(1e-9, 1e3) | st.just(0.0),
)
def test_the_floor_is_the_weight_decay_or_a_share_of_the_largest(
    damping: dict[str, float], weight_decay: float
) -> None:
    found = floored(damping, weight_decay)
    floor = weight_decay or LEAST_SHARE * max(damping.values())
    assert all(found[name] == (value if value >= floor else floor) for name, value in damping.items())
