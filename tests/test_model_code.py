"""Code that changes under its factories' names: refused where it is loaded, not reused where it was computed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

import tiny
from proponent.audit.datamodel import recipe_digest
from proponent.classifier import load_classifier
from proponent.errors import MismatchError
from proponent.explainer import Explainer
from proponent.index.bundle import read_manifest, write_manifest
from proponent.index.forgetting import forget
from proponent.index.store import Store
from proponent.inspection.verify import verify
from proponent.options import ExplainOptions
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import load_spec
from proponent.user_code.source import code_sha256
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker.batch import Item, Worker

MORE = """

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(36, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).tanh())


def named():
    return Named()


def scaled(image):
    import numpy
    import torch
    pixels = torch.from_numpy(numpy.asarray(image.resize((6, 6), Image.Resampling.BILINEAR)).copy())
    return pixels.float()[None] / 255


def loss(outputs, labels):
    return functional.cross_entropy(outputs, labels, reduction="none")
"""


class Project:
    """A project with a bundle, whose module can be edited, as between two starts of a process."""

    def __init__(self, root: Path, model: str = "net", kind: str = "ekfac", **keys: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "MODULE", tiny.MODULE + MORE)
            curvature = {"kind": kind, "embedding_size": 25, "damping": 1.0, **keys}
            self.spec = tiny.project(root, model=model, curvature=curvature)
        self.name = load_spec(self.spec).model.factory.partition(":")[0]
        self.module = root / f"{self.name}.py"
        tiny.change(self.spec, transform={"factory": f"{self.name}:scaled"}, loss=f"{self.name}:loss")
        self.bundle = self.build(root / "store")

    def build(self, store: Path) -> Path:
        return rebuild(load_spec(self.spec), Store(store), RebuildOptions(quiet=True))

    @contextmanager
    def edited(self, old: str, new: str) -> Iterator[None]:
        text = self.module.read_text()
        assert old in text
        try:
            self._write(text.replace(old, new))
            yield
        finally:
            self._write(text)

    def _write(self, text: str) -> None:
        self.module.write_text(text)
        sys.modules.pop(self.name, None)
        shutil.rmtree(self.module.parent / "__pycache__", ignore_errors=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("code"))


SIGMOID = ("1, 4, 3, padding=1), nn.Tanh()", "1, 4, 3, padding=1), nn.Sigmoid()")


@pytest.mark.parametrize(
    ("old", "new", "suspect"),
    [
        ("1, 4, 3, padding=1), nn.Tanh()", "1, 4, 3, padding=1), nn.Sigmoid()", "model"),
        ("1, 4, 3, padding=1), nn.Tanh()", "1, 4, 3, padding=1), nn.Hardtanh()", "model"),
        ("nn.AvgPool2d(2)", "nn.MaxPool2d(2)", "model"),
        ("padding=1)", "padding=1, padding_mode='reflect')", "model"),
        ("nn.AvgPool2d(2), nn.Flatten()", "nn.AvgPool2d(2), nn.Flatten(), nn.Softmax(1)", "model"),
        ("nn.Linear(36, 3)\n    )", "nn.Linear(36, 3, bias=False)\n    )", "model"),
        ("[None] / 255", "[None] / 127.5 - 1", "transform"),
        ("[None] / 255", "[None].mT / 255", "transform"),
        ("Resampling.BILINEAR", "Resampling.NEAREST", "transform"),
        ('reduction="none")', 'reduction="none", label_smoothing=0.1)', "loss"),
    ],
)
def test_changed_code_is_refused_where_a_bundle_is_loaded(project: Project, old: str, new: str, suspect: str) -> None:
    expected = f"code of the {suspect} is not what the bundle was built with"
    with project.edited(old, new), pytest.raises(MismatchError, match=expected) as caught:
        Explainer.load(project.bundle)
    assert (caught.value.reason, caught.value.field) == ("MODEL_CODE_CHANGED", suspect)


@pytest.fixture(scope="module", params=["exact", "ekfac"])
def named(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Project:
    return Project(tmp_path_factory.mktemp("named"), "named", request.param)


ORDER = "self.body = nn.Linear(36, 4)\n        self.head = nn.Linear(4, 3)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ORDER, "\n        ".join(ORDER.split("\n        ")[::-1])),
        ("self.head = nn.Linear(4, 3)", "self.head = nn.Linear(4, 3).requires_grad_(False)"),
        ("self.body(x.flatten(1))", "functional.linear(x.flatten(1), self.body.weight, self.body.bias)"),
        ("self.head(self.body(x.flatten(1)).tanh())", "self.head(self.body(x.flatten(1)).tanh().detach())"),
    ],
    ids=["order", "frozen", "without the layer's call", "detached"],
)
def test_code_of_the_same_outputs_and_other_gradients_is_refused(named: Project, old: str, new: str) -> None:
    """Rows and factors know a parameter by its place: in another order they would be those of other parameters."""
    with (
        named.edited(old, new),
        pytest.raises(MismatchError, match="code of the model is not what the bundle was built with") as caught,
    ):
        Explainer.load(named.bundle)
    assert caught.value.reason == "MODEL_CODE_CHANGED"


@pytest.mark.filterwarnings("ignore::proponent.rebuild.coverage.UncoveredWarning")
def test_a_named_layer_that_is_frozen_since_is_a_change_of_code(tmp_path: Path) -> None:
    project = Project(tmp_path, "named", layers=["head"])
    with (
        project.edited("nn.Linear(4, 3)", "nn.Linear(4, 3).requires_grad_(False)"),
        pytest.raises(MismatchError, match=r"then head; now others"),
    ):
        Explainer.load(project.bundle)


def test_bundles_with_fewer_probes_are_loaded(named: Project, tmp_path: Path) -> None:
    """Those of a version that compared outputs alone."""
    copy = tmp_path / "bundle"
    shutil.copytree(named.bundle, copy)
    kept = read_manifest(named.bundle).probes
    outputs = {name: kept[name] for name in ("low", "high", "tensors", "losses", "images")}
    write_manifest(copy, replace(read_manifest(named.bundle), probes=outputs))
    Explainer.load(copy)


def test_the_worker_and_a_verification_say_so(project: Project) -> None:
    explain = WorkerRequest(explain=pb.ExplainRequest(model="toy", encoded_image=b""))
    with project.edited(*SIGMOID):
        [problem] = verify(project.bundle).problems
        [reply] = Worker.load(project.bundle, None, None).handle([Item(explain, as_json=False)])
    assert problem.file == "model" and "is not what the bundle was built with" in problem.message
    assert (reply.error.code, reply.error.reason) == (code_pb2.FAILED_PRECONDITION, "MODEL_CODE_CHANGED")


def test_code_that_does_the_same_is_loaded_without_the_data(project: Project, tmp_path: Path) -> None:
    data = project.module.parent / "data.safetensors"
    with project.edited("nn.AvgPool2d(2)", "nn.AvgPool2d(kernel_size=2, stride=2)"):
        data.rename(tmp_path / "away")
        assert len(Explainer.load(project.bundle).explain(tiny.inputs(2), [ExplainOptions()] * 2)) == 2
        (tmp_path / "away").rename(data)


def test_forgetting_keeps_what_is_compared(project: Project, tmp_path: Path) -> None:
    """Made-up inputs hold nothing of any example."""
    shutil.copytree(project.bundle.parents[2], tmp_path / "store")
    store = Store(tmp_path / "store")
    forget(store, "toy", ["toy/3"], compact=True)
    compacted = store.current("toy")
    assert compacted.name != project.bundle.name
    assert read_manifest(compacted).probes == read_manifest(project.bundle).probes
    with project.edited(*SIGMOID), pytest.raises(MismatchError):
        Explainer.load(compacted)


def test_a_bundle_without_probes_is_loaded_as_before(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.bundle, tmp_path / "older")
    write_manifest(tmp_path / "older", replace(read_manifest(project.bundle), probes={}))
    with project.edited(*SIGMOID):
        Explainer.load(tmp_path / "older")


@pytest.mark.filterwarnings("ignore::proponent.rebuild.pipeline.NotStationaryWarning")
def test_a_rebuild_that_resumes_does_not_mix_two_codes(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    save: Callable[..., None] = Workspace.save

    def dying(self: Workspace, name: str, tensors: Any) -> None:
        if name == "rows-00000":
            raise Killed
        save(self, name, tensors)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Workspace, "save", dying)
        project.build(tmp_path / "killed")
    with project.edited("1, 4, 3, padding=1), nn.Tanh()", "1, 4, 3, padding=1), nn.Hardtanh()"):
        resumed, fresh = project.build(tmp_path / "killed"), project.build(tmp_path / "fresh")
    assert read_manifest(resumed).files == read_manifest(fresh).files


def test_retrained_models_belong_to_their_code(project: Project) -> None:
    def digest() -> str:
        spec = load_spec(project.spec)
        data = TrainingSet.open(load_classifier(spec), spec.dataset)
        return recipe_digest(spec, data, data, [0])

    before = digest()
    with project.edited('reduction="none")', 'reduction="none") * 1.0'):
        assert digest() != before
    assert digest() == before


@pytest.mark.parametrize("changed", ["part.py", "pack/__init__.py", "pack/deep.py", "pack/sibling.py", "late.py"])
def test_modules_that_a_factory_imports_count(tmp_path: Path, changed: str) -> None:
    spec = load_spec(tiny.project(tmp_path))
    name = f"{spec.model.factory.partition(':')[0]}.py"
    texts = {
        name: "import part\nfrom pack import deep\n\ndef logistic():\n    import late\n",
        "part.py": "import torch\n",
        "pack/__init__.py": "",
        "pack/deep.py": "from . import sibling\nfrom ...above import nothing\n",
        "pack/sibling.py": "not python (\n",
        "late.py": "import part\n",
        "unrelated.py": "",
    }
    (tmp_path / "pack").mkdir()
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    before = code_sha256(spec)
    (tmp_path / "unrelated.py").write_text("changed = True\n")
    assert code_sha256(spec) == before
    (tmp_path / changed).write_text("changed = True\n")
    assert code_sha256(spec) != before
