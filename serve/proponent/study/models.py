"""The models that several experiments ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from proponent.audit.scoring import AuditContext
from proponent.spec import Factory
from proponent.study.workbench import Trained, Workbench
from proponent.training.presets import PRESETS

PERCEPTRON_EPOCHS = 20


def exact_digits(bench: Workbench) -> AuditContext:
    """The index of logistic regression on scikit-learn's digits, at its minimum."""
    return bench.opened("digits-logistic", PRESETS["digits"], limit=bench.of(None, 150))


def perceptron(bench: Workbench, depth: int) -> Trained:
    """A perceptron of some depth and 32 units a layer on scikit-learn's digits, trained by SGD, with EK-FAC."""
    epochs = bench.of(PERCEPTRON_EPOCHS, 3)
    preset = replace(
        PRESETS["digits"],
        name=f"digits-mlp-{depth}",
        title=f"Perceptron with {depth} hidden layers, scikit-learn's digits",
        model=Factory(factory="proponent.models.mlp:MLP", kwargs={"inputs": 64, "classes": 10, "depth": depth}),
        weight_decay=0.001,
        training={"optimizer": "sgd", "lr": 0.05, "epochs": epochs, "batch_size": 32, "schedule": "cosine"},
        curvature={"kind": "ekfac"},
    )
    return bench.trained(preset.name, preset, limit=bench.of(None, 150))


def logistic_regression(bench: Workbench, decay: float) -> AuditContext:
    """The index of the logistic regression of Table 1, trained by SGD with a weight decay; with an exact Hessian."""
    return bench.opened_of(trained_logistic_regression(bench, decay))


def trained_logistic_regression(bench: Workbench, decay: float) -> Trained:
    """The model alone."""
    sgd = {"optimizer": "sgd", "lr": 0.05, "epochs": bench.of(10, 5), "batch_size": 64, "schedule": "cosine"}
    damping = 0.0 if decay else 0.01
    preset = bench.of(PRESETS["mnist"], PRESETS["digits"])
    preset = replace(preset, weight_decay=decay, training=sgd, curvature={"kind": "exact", "damping": damping})
    return bench.trained(f"logistic-sgd-{decay}", preset, limit=bench.of(10_000, 150))


def binary_cnn(bench: Workbench, loss: str, decay: float, seed: int = 0) -> tuple[Trained, AuditContext]:
    """The CNN with a loss and a weight decay, and its index."""
    name = f"motorbike-fruit-{loss}-{decay}-{seed}"
    preset = PRESETS[f"motorbike-fruit-{loss}"]
    training = {**preset.training, "epochs": bench.of(10, 6), "batch_size": bench.of(64, 16)}
    curvature = {"kind": "ekfac", "embedding_size": bench.of(256, 32), "subspace_size": bench.of(4096, 256)}
    preset = replace(preset, weight_decay=decay, training=training, curvature=curvature)
    trained = bench.trained(name, preset, seed=seed, limit=bench.of(None, 200))
    return trained, bench.opened_of(trained)


@dataclass(frozen=True)
class Network:
    """A network of figures 9 to 11.

    Attributes:
        preset: In the study.
        epochs: Passes over the training images.
        batch_size: Small, so that few images make enough steps.
        small: The preset that stands for it in quick mode, where its curvature alone would take minutes.
        layers: Those explained; None for all.
        lr: In place of the preset's, whose batches are larger.
        channels_last: See `proponent.training.fit`.
    """

    preset: str
    epochs: int
    batch_size: int
    small: str
    layers: tuple[str, ...] | None = None
    lr: float | None = None
    channels_last: bool = False

    @property
    def optimizer(self) -> str:
        """Its name in `proponent.training`."""
        return str(PRESETS[self.preset].training["optimizer"])

    @property
    def learning_rate(self) -> float:
        """At the first step."""
        return self.lr or float(PRESETS[self.preset].training["lr"])


NETWORKS = {
    "shallow CNN": Network("cifar10-cnn", 20, 16, "cifar10-cnn"),
    "EfficientNet-B0": Network("cifar10-efficientnet-b0", 40, 16, "cifar10-cnn", channels_last=True),
    "ResNet-50": Network(
        "cifar10-resnet50",
        8,
        16,
        "cifar10-resnet20",
        layers=("layer4.2.conv1", "layer4.2.conv3", "fc"),
        lr=0.005,
        channels_last=True,
    ),
}
"""The networks of figures 9 to 11 by name, in the order of their size."""
SHALLOW, LARGE = "shallow CNN", ("EfficientNet-B0", "ResNet-50")


def cifar10_images(bench: Workbench) -> int:
    """How many images of CIFAR-10 they are trained on; as many are held out, as far as there are."""
    return bench.of(1500, 48)


def cifar10_network(bench: Workbench, name: str) -> tuple[Trained, AuditContext]:
    """A network of figures 9 to 11, trained on the first images of CIFAR-10's lossless subset, and its index."""
    network = NETWORKS[name]
    preset = PRESETS[bench.of(network.preset, network.small)]
    layers: dict[str, Any] = {"layers": list(network.layers)} if network.layers else {}
    curvature = {"kind": "ekfac", **bench.of(layers, {"embedding_size": 32, "subspace_size": 512})}
    training = {**preset.training, "epochs": bench.of(network.epochs, 2), "batch_size": network.batch_size}
    if network.lr:
        training["lr"] = network.lr
    if network.channels_last:
        training["channels_last"] = True
    directory = f"cifar10-{name}".lower().replace(" ", "-")
    preset = replace(preset, name=directory, training=training, curvature=curvature)
    trained = bench.trained(preset.name, preset, limit=cifar10_images(bench))
    return trained, bench.opened_of(trained)
