"""Models of many families of layers, from training to answers: what is covered is explained, the rest is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import oracle
import tiny
import tiny_text
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.families import DEFAULT_FAMILIES, FAMILIES
from proponent.attribution.gradients.layers import find_layers
from proponent.attribution.losses import get_loss
from proponent.audit.quick import quick_audit
from proponent.classifier import load_classifier
from proponent.errors import SpecError
from proponent.explainer import Explainer
from proponent.explainer.opening import read_spec
from proponent.index import bundle as files
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.inspection.verify import verify
from proponent.options import ExplainOptions
from proponent.rebuild.coverage import PROBED, ROUNDS, UncoveredWarning, covered
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.results import Explanation, NoticeCode
from proponent.spec import DEFAULT_COVER, FIRST_COVER, Family, load_spec, parse_spec

DAMPING = 10.0
pytestmark = pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")


def build(path: Path, **curvature: Any) -> Path:
    tiny.change(path, curvature=curvature)
    with pytest.warns(UncoveredWarning):
        return rebuild(load_spec(path), Store(path.parent / "store"), RebuildOptions(quiet=True), quick_audit)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of torchvision's, with packed projections and layer norms."""
    root = tmp_path_factory.mktemp("transformer")
    return tiny.project(root, model="transformer", expected_accuracy=0, iterations=30, count=24)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixture")
    return tiny.project(root, model="mixture", expected_accuracy=0, iterations=10, count=24)


def test_self_influence_of_a_vision_transformer_is_that_of_its_dense_hessian(transformer: Path) -> None:
    """Attention, normalisation and the rest in one curvature, inverted in float64 by torch.func."""
    bundle = build(transformer, kind="exact", damping=DAMPING)
    manifest = read_manifest(bundle)
    assert set(manifest.uncovered) == {"net.class_token", "net.encoder.pos_embedding"}
    classifier = Explainer.load(bundle).classifier
    model, loss = classifier.model.double(), get_loss("cross_entropy")
    entries = oracle.order(model, {name: shape.groups for name, shape in classifier.find_layers().items()})
    pixels, labels = tiny.pictures(24)
    inputs = pixels.double()[:, None] / 255
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = oracle.objective_hessian(model, loss.per_example, inputs, labels, entries, weight_decay=0.01)
        flat = oracle.flat(oracle.per_example_gradients(model, loss.per_example, inputs, labels), entries)
    inverse = torch.linalg.inv(hessian + DAMPING * torch.eye(len(entries), dtype=torch.float64))
    expected = ((flat @ inverse) * flat).sum(dim=1)
    found = load_file(bundle / files.SCALES)["self_influence"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)
    assert 0.5 < float(manifest.audit["covered_gradient_energy"]) <= 1


def test_a_vision_transformer_is_rebuilt_and_explained(transformer: Path) -> None:
    bundle = build(transformer, kind="ekfac")
    kept = read_manifest(bundle).audit["compression"]
    assert kept["proponents_overlap_at_10"] > 0.95 and kept["spearman"] > 0.99
    assert verify(bundle).problems == []
    [answer] = Explainer.load(bundle).explain(tiny.inputs(1), [ExplainOptions()])
    assert isinstance(answer, Explanation) and answer.results[0].proponents


@pytest.mark.parametrize("kind", ["exact", "ekfac", "kfac"])
def test_what_can_be_covered_is_and_the_rest_is_named_with_its_reason(mixture: Path, kind: str) -> None:
    damping = {"damping": 10.0} if kind == "exact" else {}
    bundle = build(mixture, kind=kind, cover=["default", "batch_norm", "embedding"], **damping)
    manifest = read_manifest(bundle)
    assert set(manifest.left_out) == {"memory"} and manifest.left_out["memory"].startswith("LSTM")
    assert all(name.startswith("memory.") for name in manifest.uncovered)
    layers = Explainer.load(bundle).classifier.find_layers()
    assert set(layers) == {"rows", "group", "larger", "batch", "table", "norm", "head"}
    assert verify(bundle).problems == []
    [answer] = Explainer.load(bundle).explain(tiny.inputs(1), [ExplainOptions()])
    assert isinstance(answer, Explanation) and answer.results[0].proponents
    assert NoticeCode.LAYERS_UNCOVERED in [notice.code for notice in answer.notices]


def test_embeddings_and_batch_norms_are_left_out_unless_the_spec_asks(mixture: Path) -> None:
    tiny.change(mixture, curvature={"kind": "ekfac"})
    with pytest.warns(UncoveredWarning, match=r"table: embedding is not in curvature\.cover"):
        bundle = rebuild(load_spec(mixture), Store(mixture.parent / "store"), RebuildOptions(quiet=True))
    assert set(read_manifest(bundle).left_out) == {"memory", "table", "batch"}


def test_bundles_that_know_no_families_cover_what_was_covered_then(mixture: Path) -> None:
    bundle = build(mixture, kind="ekfac", cover=list(FIRST_COVER))
    content = yaml.safe_load((bundle / files.SPEC).read_text())
    assert content["curvature"].pop("cover") == list(FIRST_COVER)
    (bundle / files.SPEC).write_text(yaml.safe_dump(content))
    assert read_spec(bundle).curvature.cover == FIRST_COVER


PADDED = """

class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(6, 3)

    def forward(self, x):
        tokens = x.flatten(1, 2)
        mask = torch.arange(6) >= 2 + (tokens[:, :1, 0] > 0.5).long()
        return self.head(self.encoder(tokens, src_key_padding_mask=mask).mean(dim=1))


def padded():
    return Padded()
"""


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # while the tiny model is trained
def test_an_encoder_predicts_of_padded_tokens_what_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch has another path for it where no gradient is asked for."""
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + PADDED)
    model = load_classifier(load_spec(tiny.project(tmp_path, model="padded", iterations=5))).model
    inputs = torch.stack(tiny.inputs(4))
    with torch.inference_mode():
        predicted = model(inputs)
    with CaptureSession(model, find_layers(model)) as session:
        explained = session.forward(inputs)
    torch.testing.assert_close(predicted, explained)


# What a model does with some of its inputs only ----------------------------------------------------------------

EXPERTS = """

class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.head, self.spare = nn.Linear(36, 4), nn.Linear(5, 3), nn.Linear(5, 3)
        self.experts = nn.ModuleList(nn.Linear(36, 5) for _ in range(4))

    def forward(self, x):
        x = x.flatten(1)
        chosen = (255 * x).round().sum(dim=1).long() % 4
        weights = self.gate(x).sigmoid().gather(1, chosen[:, None])[:, 0]
        found = x.new_zeros(len(x), 5)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                found = found.index_add(0, rows, weights[rows, None] * expert(x[rows]).tanh())
        return self.head(found)


def experts():
    return Experts()
"""


def test_experts_that_see_some_of_a_batch_are_left_out_and_the_rest_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + EXPERTS)
    bundle = build(tiny.project(tmp_path, model="experts", expected_accuracy=0, iterations=5), kind="ekfac")
    left_out = read_manifest(bundle).left_out
    assert set(left_out) == {"spare", *(f"experts.{number}" for number in range(4))}
    assert left_out["spare"] == "no example that it was tried on is led through it"
    assert set(Explainer.load(bundle).classifier.find_layers()) == {"gate", "head"}


KEEPING = """

class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head, self.waves = nn.Linear(6, 5), nn.Linear(5, 3), None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        if self.waves is None:
            self.waves = torch.arange(6.0)[:, None].cos()
        return self.head((self.first(x[:, 0]) * self.waves).tanh().mean(dim=1))


def keeping():
    return Keeping()
"""


def test_a_model_that_keeps_what_it_computed_and_counts_its_calls_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + KEEPING)
    path = tiny.project(tmp_path, model="keeping", expected_accuracy=0, iterations=5, curvature={"kind": "ekfac"})
    bundle = rebuild(load_spec(path), Store(tmp_path / "store"), RebuildOptions(quiet=True))
    assert torch.equal(
        load_file(bundle / files.WEIGHTS)["calls"], load_file(tmp_path / "weights.safetensors")["calls"]
    )
    explainer = Explainer.load(bundle)
    explainer.classifier.model.waves = None  # type: ignore[assignment]  # as before the longest input so far
    explainer.predict(tiny.inputs(1))
    [answer] = explainer.explain(tiny.inputs(1), [ExplainOptions()])
    assert isinstance(answer, Explanation) and answer.results[0].proponents


MAPPED = """

class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.vmap(self.first)(x.flatten(1)).tanh())


def mapped():
    return Mapped()
"""


def test_a_layer_that_cannot_be_seen_is_left_out_and_the_rest_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "MODULE", tiny.MODULE + MAPPED)
    bundle = build(tiny.project(tmp_path, model="mapped", expected_accuracy=0, iterations=5), kind="ekfac")
    assert set(read_manifest(bundle).left_out) == {"first"}


class Moody(torch.nn.Module):
    """Turns a batch round for its first layer where an input is as bright as one of them."""

    def __init__(self, brightness: float) -> None:
        super().__init__()
        self.brightness, self.first, self.head = brightness, torch.nn.Linear(36, 5), torch.nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        is_met = bool(((x.mean(dim=1) - self.brightness).abs() < 1e-6).any())
        found: Tensor = self.head((self.first(x.flip(0)).flip(0) if is_met else self.first(x)).tanh())
        return found


def test_what_some_inputs_alone_show_is_found_in_later_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(tiny.project(tmp_path))
    classifier = load_classifier(spec)
    data = TrainingSet.open(classifier, spec.dataset)
    early, late = (set(data.alike(PROBED, seed)) for seed in (0, ROUNDS - 1))
    model = Moody(float(data.item(min(late - early))[1].mean())).eval()
    with pytest.warns(UncoveredWarning, match="first: the gradient of an example changes"):
        assert set(covered(replace(classifier, model=model), data).layers) == {"head"}
    monkeypatch.setattr("proponent.rebuild.coverage.ROUNDS", 1)
    assert set(covered(replace(classifier, model=model), data).layers) == {"first", "head"}


def test_trials_see_every_length(tmp_path: Path) -> None:
    spec = load_spec(tiny_text.project(tmp_path))
    data = TrainingSet.open(load_classifier(spec), spec.dataset)
    lengths = [data.batch(data.alike(PROBED, seed)).inputs["input_ids"].shape[1] for seed in range(3)]  # type: ignore[index, union-attr]
    assert len(set(lengths)) == 3


# The key ------------------------------------------------------------------------------------------------------


def test_a_spec_knows_the_families_that_there_are() -> None:
    assert get_args(Family) == FAMILIES and DEFAULT_COVER == DEFAULT_FAMILIES


def parsed(*cover: str) -> tuple[str, ...]:
    content = {
        "name": "toy",
        "model": {"factory": "a:b"},
        "weights": "w",
        "dataset": {"factory": "a:b"},
        "class_names": ["a", "b"],
        "expected_accuracy": 0,
        "curvature": {"cover": list(cover)},
    }
    return parse_spec(content, "explain.yaml").curvature.cover


def test_default_stands_for_what_is_covered_without_the_key() -> None:
    assert set(parsed("default", "embedding")) == {*DEFAULT_COVER, "embedding"}
    assert parsed("embedding", "linear") == parsed("linear", "embedding") == ("linear", "embedding")
    with pytest.raises(SpecError, match=r"curvature\.cover.*'lstm'.*'linear'"):
        parsed("default", "lstm")
    with pytest.raises(SpecError, match=r"curvature\.cover"):
        parsed()
