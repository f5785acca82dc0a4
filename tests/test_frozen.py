"""Frozen parameters are no part of what training examples did: gradients, curvature, bundles and retrainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import cases
import oracle
import tiny
from captured import capture
from curvatures import dense_ggn
from proponent.attribution.agreement import pearson
from proponent.attribution.curvature.exact import exact_hessian
from proponent.attribution.gradients.layer_gradients import flat_gradients
from proponent.attribution.gradients.layers import (
    find_layers,
    flatten_parameters,
    frozen_parameters,
    frozen_state,
    num_parameters,
    uncovered,
    unflatten_parameters,
)
from proponent.attribution.losses import get_loss
from proponent.audit.checks import AuditOptions, full_audit
from proponent.audit.datamodel import recipe_digest
from proponent.audit.quick import quick_audit
from proponent.audit.scoring import influence_matrix, open_bundle
from proponent.classifier import untrained_model
from proponent.datasets import digits
from proponent.errors import InvalidInputError, SpecError
from proponent.explainer import Explainer, read_spec
from proponent.gateway.deployment import BundleHandle
from proponent.gateway.lookups import describe_model
from proponent.index import bundle as files
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.options import ExplainOptions
from proponent.rebuild.coverage import FrozenWarning, UncoveredWarning
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.retraining import trained_model
from proponent.results import Explanation, NoticeCode
from proponent.spec import load_spec
from proponent.training.loop import fit
from softmax_regression import Regression, chosen_rows, train

LOSS = get_loss("cross_entropy")
WEIGHT_DECAY = 1e-2
TEST_POINTS = 5
MODULE = """
from torch import nn


def network():
    model = nn.Sequential()
    model.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh()).requires_grad_(False)
    model.head = nn.Linear(24, 10)
    return model
"""


pytestmark = pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")


def build(path: Path, name: str = "store", audit: bool = False) -> Path:
    options = RebuildOptions(quiet=True)
    store = Store(path.parent / name)
    return (
        rebuild(load_spec(path), store, options, quick_audit) if audit else rebuild(load_spec(path), store, options)
    )


def silently(path: Path, **options: Any) -> Path:
    with pytest.warns(FrozenWarning):
        return build(path, **options)


# One head on a frozen body, trained to its optimum -----------------------------------------------------------


class Transfer:
    """Digits through a frozen random layer; the head is a softmax regression, retrained in float64."""

    def __init__(self, root: Path) -> None:
        (root / "transfer_module.py").write_text(MODULE)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.init.normal_(self.body[1].weight, std=0.3)
            nn.init.zeros_(self.body[1].bias)
        self.training, self.test = self._seen(digits.train()), self._seen(digits.test(TEST_POINTS))
        self.theta, self.factor = train(self.training)
        head = {"head.weight": self.theta[:, :-1], "head.bias": self.theta[:, -1]}
        state = {f"body.{name}": value for name, value in self.body.state_dict().items()} | head
        save_file({name: value.float().contiguous() for name, value in state.items()}, root / "weights.safetensors")
        self.root = root

    def _seen(self, dataset: digits.ArrayImages) -> Regression:
        pixels = torch.from_numpy(dataset.images).double().flatten(1) / 255
        body = nn.Linear(64, 24).double()
        body.load_state_dict(self.body[1].state_dict())
        with torch.no_grad():
            features = torch.nn.functional.pad(body(pixels).tanh(), (0, 1), value=1.0)
        return Regression(features, torch.from_numpy(dataset.labels), WEIGHT_DECAY)

    def bundle(self, **curvature: Any) -> Path:
        content = {
            "name": "transfer",
            "model": {"factory": "transfer_module:network"},
            "weights": "weights.safetensors",
            "dataset": {"factory": "proponent.datasets.digits:train"},
            "held_out": {"factory": "proponent.datasets.digits:test", "kwargs": {"limit": TEST_POINTS}},
            "class_names": list("0123456789"),
            "weight_decay": WEIGHT_DECAY,
            "expected_accuracy": 0.8,
            "curvature": curvature,
            "training": {"factory": "proponent.training:fit", "kwargs": {"optimizer": "lbfgs"}},
        }
        (self.root / "explain.yaml").write_text(yaml.safe_dump(content))
        return silently(self.root / "explain.yaml")

    def agreement(self, bundle: Path) -> tuple[float, float]:
        """Correlation and slope of real leave-one-out changes on the predicted ones."""
        scores = influence_matrix(open_bundle(bundle), list(range(TEST_POINTS))).mT
        rows = chosen_rows(scores, 5, 15)
        before = self.test.losses(self.theta)
        after = [self.test.losses(self.training.without(row).minimum(self.theta, self.factor)) for row in rows]
        real, predicted = (torch.stack(after) - before).flatten(), (scores[rows] / len(scores)).flatten()
        return float(pearson(real, predicted)), float(real @ predicted / (predicted @ predicted))


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Transfer:
    return Transfer(tmp_path_factory.mktemp("transfer"))


def test_exact_curvature_of_a_head_predicts_its_retraining_by_default(transfer: Transfer) -> None:
    correlation, slope = transfer.agreement(transfer.bundle(kind="exact"))
    assert correlation > 0.99 and 0.9 < slope < 1.15


def test_a_frozen_body_takes_no_part_in_ekfac_as_if_the_head_alone_were_named(transfer: Transfer) -> None:
    bundle, named = transfer.bundle(kind="ekfac"), transfer.bundle(kind="ekfac", layers=["head"])
    for name in (files.ROWS, files.SCALES, files.FACTORS):
        assert read_manifest(bundle).files[name] == read_manifest(named).files[name]
    assert transfer.agreement(bundle)[0] > 0.9


def test_a_spec_may_explain_frozen_parameters_all_the_same(transfer: Transfer) -> None:
    transfer.bundle(kind="ekfac")
    path = transfer.root / "explain.yaml"
    bundle = build(tiny.change(path, curvature={"kind": "ekfac", "frozen": "explain"}))
    manifest = read_manifest(bundle)
    assert (manifest.frozen, manifest.frozen_share, manifest.uncovered) == ({}, 0.0, {})
    assert {layer.name for layer in Explainer.load(bundle).classifier.find_layers().values()} == {"body.1", "head"}


# Parts of layers --------------------------------------------------------------------------------------------

FROZEN = {
    "mlp": ["0.weight"],
    "cnn": ["3.weight", "5.bias"],
    "grouped": ["stem.weight", "depthwise.weight", "pointwise.bias"],
    "twice_used": ["hidden.weight", "token.weight", "token.bias"],
}


def entries(case: cases.Case) -> list[tuple[str, tuple[int, ...]]]:
    """Entries of the trained parameters in the order of the flat vector, by the oracle's plain loops."""
    groups = {name: shape.groups for name, shape in find_layers(case.model, frozen=True).items()}
    trained = {name for name, p in case.model.named_parameters() if p.requires_grad}
    return [entry for entry in oracle.order(case.model, groups) if entry[0] in trained]


def partly_frozen(name: str) -> cases.Case:
    case = cases.MODELS[name]()
    for parameter in FROZEN[name]:
        case.model.get_parameter(parameter).requires_grad_(False)
    return case


@pytest.mark.parametrize("name", FROZEN)
def test_gradients_and_curvature_are_those_of_the_trained_parameters(name: str) -> None:
    case = partly_frozen(name)
    layers = find_layers(case.model)
    order = entries(case)
    assert num_parameters(layers) == len(order)
    gradients = capture(case.model, case.inputs, lambda z: LOSS.output_gradient(z, case.labels), layers)[1]
    expected = oracle.per_example_gradients(case.model, LOSS.per_example, case.inputs, case.labels)
    torch.testing.assert_close(flat_gradients(gradients), oracle.flat(expected, order), rtol=1e-8, atol=1e-12)
    for gradient in gradients.values():
        torch.testing.assert_close(gradient.sum_and_squares()[0], gradient.dense().sum(dim=0))
    hessian = exact_hessian(case.model, LOSS, case.batches(5), layers, weight_decay=0.1)
    truth = oracle.objective_hessian(case.model, LOSS.per_example, case.inputs, case.labels, order, 0.1)
    torch.testing.assert_close(hessian, truth, rtol=1e-7, atol=1e-11)
    assert dense_ggn(case.model, LOSS, case.batches(5), layers).shape == truth.shape


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_the_hessian_of_a_linear_model_is_that_of_its_trained_part(part: str) -> None:
    case = cases.logistic()
    case.model.get_parameter(f"1.{part}").requires_grad_(False)
    found = exact_hessian(case.model, LOSS, case.batches(5), find_layers(case.model))
    truth = oracle.objective_hessian(case.model, LOSS.per_example, case.inputs, case.labels, entries(case))
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-12)


def test_flat_vectors_hold_the_trained_parameters_and_give_them_back() -> None:
    model = partly_frozen("cnn").model
    layers = find_layers(model)
    flat = flatten_parameters(dict(model.named_parameters()), layers)
    named = unflatten_parameters(flat, layers)
    assert set(named) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, value in named.items():
        torch.testing.assert_close(value, model.get_parameter(name))


def test_frozen_parameters_are_counted_apart_from_uncovered_ones() -> None:
    model = cases.grouped().model
    model.norm.requires_grad_(False)
    model.stem.requires_grad_(False)
    layers = find_layers(model)
    assert frozen_parameters(model) == {"stem.weight": 72, "norm.weight": 4, "norm.bias": 4}
    assert uncovered(model, layers) == {}
    assert set(uncovered(model, layers, frozen=True)) == set(frozen_parameters(model))
    assert "stem" in find_layers(model, frozen=True) and "stem" not in layers


def test_buffers_of_frozen_modules_belong_to_what_training_leaves_alone() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)), nn.BatchNorm1d(2))
    assert frozen_state(model) == []
    model[0].requires_grad_(False)
    assert [name for name in frozen_state(model) if "running" in name] == ["0.1.running_mean", "0.1.running_var"]
    assert not any(name.startswith("1.") for name in frozen_state(model))


# What a rebuild says and refuses ----------------------------------------------------------------------------


def project(root: Path, first: int, last: int, **keys: Any) -> Path:
    path = tiny.project(root, model="frozen", expected_accuracy=0, iterations=20, **keys)
    name = yaml.safe_load(path.read_text())["model"]["factory"]
    return tiny.change(path, model={"factory": name, "kwargs": {"first": first, "last": last}})


def test_what_is_frozen_is_named_counted_and_said(tmp_path: Path) -> None:
    path = project(tmp_path, 0, 3, curvature={"kind": "ekfac"})
    with pytest.warns(FrozenWarning, match=r"91\.2% of the parameters are frozen .*: 1\.weight, 1\.bias, 2\.weight"):
        bundle = build(path, audit=True)
    manifest = read_manifest(bundle)
    assert manifest.frozen == {"1.weight": 144, "1.bias": 4, "2.weight": 4, "2.bias": 4}
    assert manifest.frozen_share == pytest.approx(156 / 171)
    assert (manifest.uncovered, manifest.uncovered_share) == ({}, 0.0)
    assert manifest.audit["covered_gradient_energy"] == pytest.approx(1.0)
    [answer] = Explainer.load(bundle).explain(tiny.inputs(1), [ExplainOptions()])
    assert isinstance(answer, Explanation)
    [notice] = [notice for notice in answer.notices if notice.code is NoticeCode.PARAMETERS_FROZEN]
    assert notice.count == 4 and notice.message.startswith("91.23% of the model's parameters were not trained")
    opened = BundleHandle.open(bundle)
    reply = describe_model(opened)
    opened.catalog.close()
    assert (list(reply.frozen), reply.frozen_share) == (sorted(manifest.frozen), manifest.frozen_share)


def test_trained_parameters_that_are_not_covered_are_a_share_of_the_trained(tmp_path: Path) -> None:
    path = project(tmp_path, 0, 2, curvature={"kind": "ekfac"})
    with pytest.warns(FrozenWarning), pytest.warns(UncoveredWarning, match=r"34\.8% of the trained"):
        manifest = read_manifest(build(path))
    assert set(manifest.frozen) == {"1.weight", "1.bias"}
    assert manifest.uncovered_share == pytest.approx(8 / 23)


def test_a_wholly_frozen_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = project(tmp_path, 0, 5)
    with pytest.raises(SpecError, match=r"every parameter of the model is frozen.*curvature\.frozen to explain"):
        build(path)
    with pytest.warns(UncoveredWarning):
        assert read_manifest(build(tiny.change(path, curvature={"kind": "ekfac", "frozen": "explain"}))).frozen == {}


def test_a_frozen_layer_that_the_spec_names_is_refused(tmp_path: Path) -> None:
    path = project(tmp_path, 0, 3, curvature={"kind": "ekfac", "layers": ["4", "1"]})
    with pytest.raises(SpecError, match=r"layer '1' is frozen .*curvature\.frozen to explain"):
        build(path)


def test_bundles_that_know_no_frozen_parameters_explained_them(tmp_path: Path) -> None:
    bundle = silently(project(tmp_path, 0, 3, curvature={"kind": "ekfac"}))
    content = yaml.safe_load((bundle / files.SPEC).read_text())
    assert content["curvature"].pop("frozen") == "leave_out" == read_spec(bundle).curvature.frozen
    (bundle / files.SPEC).write_text(yaml.safe_dump(content))
    assert read_spec(bundle).curvature.frozen == "explain"


# Retraining -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lbfgs"])
def test_training_leaves_frozen_parameters_alone(optimizer: str) -> None:
    case = cases.grouped(dtype=torch.float32)
    case.model.requires_grad_(False)
    case.model.head.requires_grad_(True)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    fit(case.model, case.inputs, case.labels, LOSS.per_example, weight_decay=0.1, optimizer=optimizer)
    moved = {name for name, value in case.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert not any(module.training for module in case.model.modules())


def test_a_wholly_frozen_model_is_not_trained() -> None:
    case = cases.mlp(dtype=torch.float32)
    case.model.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="Every parameter of the model is frozen"):
        fit(case.model, case.inputs, case.labels, LOSS.per_example, weight_decay=0.1)


def retrainable(root: Path) -> Path:
    path = project(root, 0, 3, count=120, weight_decay=0.05)
    name = yaml.safe_load(path.read_text())["dataset"]["factory"]
    training = {"factory": "proponent.training:fit", "kwargs": {"optimizer": "lbfgs", "epochs": 20}}
    return tiny.change(path, training=training, held_out={"factory": name})


def test_a_retraining_keeps_what_is_frozen_as_deployed(tmp_path: Path) -> None:
    spec = load_spec(retrainable(tmp_path))
    deployed = load_file(tmp_path / "weights.safetensors")
    state = untrained_model(spec).state_dict()
    for name in ("1.weight", "2.weight", "2.running_mean"):
        torch.testing.assert_close(state[name], deployed[name], rtol=0, atol=0)
    assert not torch.equal(state["4.weight"], deployed["4.weight"])
    retrained = trained_model(spec, range(60), 0).state_dict()
    torch.testing.assert_close(retrained["1.weight"], deployed["1.weight"], rtol=0, atol=0)
    assert not torch.equal(retrained["4.weight"], deployed["4.weight"])


def test_an_audit_retrains_the_head_on_the_bundles_own_body(tmp_path: Path) -> None:
    path = retrainable(tmp_path)
    spec = load_spec(path)
    weights = tmp_path / "weights.safetensors"
    state = load_file(weights)
    # Running statistics that no training made, so that a head at its optimum needs the deployed body.
    save_file({**state, "2.running_var": state["2.running_var"] * 2}, weights)
    with pytest.warns(FrozenWarning):
        opened = open_bundle(build(path))
    save_file({**state, "1.weight": -state["1.weight"]}, weights)
    own = opened.explainer.classifier.spec
    assert torch.equal(untrained_model(own).state_dict()["1.weight"], state["1.weight"])
    here, there = (recipe_digest(s, opened.data, opened.held_out, [0]) for s in (own, spec))
    assert here != there


@pytest.mark.slow
def test_the_audit_of_a_transferred_head_has_the_slope_of_a_convex_model(transfer: Transfer, tmp_path: Path) -> None:
    opened = open_bundle(transfer.bundle(kind="exact"))
    options = AuditOptions(directory=tmp_path, queries=TEST_POINTS, leave_one_out=2)
    found = full_audit(opened, options, StageProgress(quiet=True))["leave_one_out"]
    assert isinstance(found, dict)
    assert found["correlation"] > 0.99 and 0.85 < found["slope"] < 1.15
