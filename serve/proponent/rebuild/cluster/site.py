"""A rebuild as it is sent to other processes and machines: where everything lies, and what must be the same there."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace

from proponent.attribution.gradients.layers import Layers
from proponent.classifier import Classifier, build_model, classifier_of, pick_device
from proponent.errors import MismatchError, SpecError
from proponent.machine_memory import machine_bytes
from proponent.rebuild.batching import Batching
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.kept_examples import SHARE
from proponent.rebuild.progress import StageProgress
from proponent.rebuild.readings import Readings
from proponent.rebuild.training_set import TrainingSet
from proponent.rebuild.workspace import Workspace
from proponent.spec import ModelSpec, parse_spec
from proponent.user_code.source import code_sha256

MODEL = "model"
"""Stage of the weights."""
FREE_OF_NODE = 8
"""Part of a node's memory, one of so many, that kept gradients leave: Ray ends workers where a twentieth is left."""
SAME = ("proponent", "torch", "torchvision", "numpy", "safetensors")
"""Libraries that a result depends on."""


@dataclass(frozen=True)
class Site:
    """One rebuild, without what is computed.

    Attributes:
        spec: With the layers that are covered.
        workspace: Location of finished stages, the weights among them.
        forgotten: Ids of training examples that take no part.
        readings: What the examples were when they were read first, as far as that is known.
        examples: Bytes of those that a process keeps.
        weights: SHA-256 of the model's.
        device: Where models go, by name.
        code: SHA-256 of the user's code.
    """

    spec: dict[str, object]
    layers: Layers
    workspace: str
    forgotten: frozenset[str]
    readings: Readings
    batching: Batching
    examples: int
    weights: str
    device: str
    code: str
    versions: dict[str, str]

    @classmethod
    def of(cls, context: RebuildContext, device: str) -> Site:
        """Of a rebuild here, whose weights it keeps among the stages."""
        if not context.workspace.has(MODEL):
            context.workspace.save(MODEL, context.classifier.state)
        spec = context.classifier.spec
        return cls(
            spec.model_dump(mode="json"),
            context.layers,
            context.workspace.location,
            context.data.forgotten,
            context.data.readings,
            context.batching,
            context.batching.memory // SHARE,
            context.classifier.weights_sha256,
            device,
            code_sha256(spec),
            versions(),
        )

    def shares(self, other: Site) -> bool:
        """Whether model and data are those of another one, whatever is computed of them."""

        def opened(site: Site) -> tuple[object, ...]:
            spec = {key: value for key, value in site.spec.items() if key != "curvature"}
            return spec, site.weights, site.forgotten, site.device, site.code, site.versions

        return opened(self) == opened(other)

    def open(self, before: RebuildContext | None = None) -> RebuildContext:
        """The same rebuild in another process.

        Args:
            before: Of a site that `shares`: its model and data are taken, and the examples that it keeps.

        Raises:
            MismatchError: Its libraries or the user's code differ there.
            SpecError: The workspace or something that the spec names is not there, or the data have changed.
        """
        self._check_versions()
        spec = parse_spec(dict(self.spec), origin="a rebuild's driver")
        if code_sha256(spec) != self.code:
            raise MismatchError(f"the code beside the spec in {spec.root} is not what the driver has", field="model")
        workspace = Workspace.joined(self.workspace)
        if not workspace.has(MODEL):
            raise SpecError(
                f"{self.workspace} does not hold the rebuild: every node must see the store at the same path, or "
                "--shards must name a URL",
                field="shards",
            )
        if before is None:
            classifier, data = self._opened(spec, workspace)
        else:
            classifier, data = replace(before.classifier, spec=spec), before.data
            data.compare(self.readings)
        return RebuildContext(
            classifier,
            self.layers,
            data,
            self.batching,
            workspace,
            StageProgress(quiet=True),
            gradients=self.batching.keeps(least_free=machine_bytes() // FREE_OF_NODE),
        )

    def _opened(self, spec: ModelSpec, workspace: Workspace) -> tuple[Classifier, TrainingSet]:
        model = build_model(spec)
        model.load_state_dict(workspace.load(MODEL))
        classifier = classifier_of(spec, model, device=pick_device(self.device))
        data = TrainingSet.open(classifier, spec.dataset, forgotten=self.forgotten, readings=self.readings)
        data.keep(self.examples)
        return classifier, data

    def _check_versions(self) -> None:
        for name, version in versions().items():
            if version != self.versions[name]:
                raise MismatchError(
                    f"{name} is {version} here and {self.versions[name]} where the rebuild was started: rows would "
                    "differ from worker to worker",
                    field="ray",
                )


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in SAME}
