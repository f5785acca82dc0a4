"""The table of presets: which model, data, loss and training options belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from proponent.datasets import adult, cifar10, loans, motorbike_fruit, sentences, sst2
from proponent.spec import Factory

_CIFAR10_STATISTICS = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616], "size": [32, 32]}
_MADE_UP = {"sentences": tuple(sentences.CLASS_NAMES), "loans": tuple(loans.CLASS_NAMES)}
_DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Preset:
    """A classifier that can be trained by name.

    Attributes:
        name: Name of the preset and of the model served.
        title: Model and data in words.
        model: Makes the ``nn.Module``.
        dataset: Makes the training set; accepts ``limit``, and ``root`` if ``needs_data``.
        held_out: Makes the held-out set; accepts the same.
        transform: The transform itself without keyword arguments, else its factory.
        loss: Name of the loss.
        weight_decay: Weight of the L2 term in the objective.
        class_names: Name of each class.
        expected_accuracy: Training accuracy that a full training must reach.
        training: Options of ``proponent.training.loop.fit``.
        curvature: The curvature section of explain.yaml.
        needs_data: Whether files below the data root are needed.
        prepare: ``module:function`` that is called with the training set and the directory of the weights, to write
            there what the transform learns of the data; keyword arguments name such a file as ``./FILE``.
    """

    name: str
    title: str
    model: Factory
    dataset: Factory
    held_out: Factory
    transform: Factory
    loss: str
    weight_decay: float
    class_names: tuple[str, ...]
    expected_accuracy: float
    training: Mapping[str, Any]
    curvature: Mapping[str, Any]
    needs_data: bool = True
    prepare: str = ""


def _factory(name: str, kwargs: Mapping[str, Any] | None = None) -> Factory:
    return Factory(factory=name, kwargs=dict(kwargs or {}))


def _logistic(name: str, title: str, size: int, data: str, expected_accuracy: float) -> Preset:
    return Preset(
        name=name,
        title=title,
        model=_factory("proponent.models.logistic:LogisticRegression", {"inputs": size * size, "classes": 10}),
        dataset=_factory(f"{data}:train"),
        held_out=_factory(f"{data}:test"),
        transform=_factory("proponent.datasets.transforms:pixels"),
        loss="cross_entropy",
        weight_decay=0.01,
        class_names=_DIGITS,
        expected_accuracy=expected_accuracy,
        training={"optimizer": "lbfgs"},
        curvature={"kind": "exact"},
        needs_data=name != "digits",
    )


def _mnist_cnn() -> Preset:
    return Preset(
        name="mnist-cnn",
        title="Small CNN, the first 4,000 digits of MNIST",
        model=_factory("proponent.models.small_cnn:SmallCNN", {"channels": 1, "classes": 10, "size": 28}),
        dataset=_factory("proponent.datasets.mnist:train", {"limit": 4000}),
        held_out=_factory("proponent.datasets.mnist:test"),
        transform=_factory("proponent.datasets.transforms:pixels"),
        loss="cross_entropy",
        weight_decay=0.001,
        class_names=_DIGITS,
        expected_accuracy=0.98,
        training=_sgd(lr=0.05, epochs=15),
        curvature={"kind": "ekfac"},
    )


def _motorbike_fruit(head: str) -> Preset:
    return Preset(
        name=f"motorbike-fruit-{head}",
        title=f"Binary CNN with loss {head}, photographs of motorbikes and fruit",
        model=_factory("proponent.models.binary_cnn:BinaryCNN", {"head": head}),
        dataset=_factory("proponent.datasets.motorbike_fruit:train"),
        held_out=_factory("proponent.datasets.motorbike_fruit:test"),
        transform=_factory("proponent.datasets.transforms:pixels"),
        loss=head,
        weight_decay=0.001,
        class_names=tuple(motorbike_fruit.CLASS_NAMES),
        expected_accuracy=0.97,
        training=_sgd(lr=0.02, epochs=15),
        curvature={"kind": "ekfac"},
    )


def _cifar10(
    name: str,
    title: str,
    model: Factory,
    training: Mapping[str, Any],
    weight_decay: float,
    expected_accuracy: float,
    source: str = "lossless",
) -> Preset:
    return Preset(
        name=name,
        title=title,
        model=model,
        dataset=_factory(f"proponent.datasets.cifar10:{source}", {"split": "train"}),
        held_out=_factory(f"proponent.datasets.cifar10:{source}", {"split": "test"}),
        transform=_factory("proponent.datasets.transforms:normalized", _CIFAR10_STATISTICS),
        loss="cross_entropy",
        weight_decay=weight_decay,
        class_names=tuple(cifar10.CLASS_NAMES),
        expected_accuracy=expected_accuracy,
        training=training,
        curvature={"kind": "ekfac"},
    )


def _sst2() -> Preset:
    return Preset(
        name="sst2",
        title="Small DistilBERT, sentences of film reviews (SST-2)",
        model=_factory("proponent.models.distilbert:small_distilbert", {"tokenizer": "./tokenizer.json"}),
        dataset=_factory("proponent.datasets.sst2:train"),
        held_out=_factory("proponent.datasets.sst2:dev"),
        transform=_factory("proponent.datasets.tokens:Tokens", {"file": "./tokenizer.json"}),
        loss="cross_entropy",
        weight_decay=0.0001,
        class_names=tuple(sst2.CLASS_NAMES),
        expected_accuracy=0.85,
        training=_adam(lr=0.001, epochs=4, batch_size=32),
        curvature={"kind": "ekfac"},
        prepare="proponent.datasets.tokens:fit_tokenizer",
    )


def _adult() -> Preset:
    return Preset(
        name="adult",
        title="MLP with embeddings of categories, 8,000 rows of the census (Adult)",
        model=_factory("proponent.models.table_mlp:TableMLP", {"table": "./table.json"}),
        dataset=_factory("proponent.datasets.adult:train", {"limit": 8000}),
        held_out=_factory("proponent.datasets.adult:test", {"limit": 2000}),
        transform=_factory("proponent.datasets.tables:Columns", {"file": "./table.json"}),
        loss="cross_entropy",
        weight_decay=0.0001,
        class_names=tuple(adult.CLASS_NAMES),
        expected_accuracy=0.85,
        training=_adam(lr=0.002, epochs=20),
        curvature={"kind": "ekfac"},
        prepare="proponent.datasets.tables:fit_table",
    )


def _made_up(like: Preset, name: str, title: str, expected_accuracy: float, epochs: int) -> Preset:
    """The same model on data that need no file."""
    return replace(
        like,
        name=name,
        title=title,
        dataset=_factory(f"proponent.datasets.{name}:train"),
        held_out=_factory(f"proponent.datasets.{name}:test"),
        class_names=_MADE_UP[name],
        expected_accuracy=expected_accuracy,
        training={**like.training, "epochs": epochs},
        needs_data=False,
    )


def _sgd(lr: float, epochs: int, batch_size: int = 64) -> dict[str, Any]:
    return {"optimizer": "sgd", "lr": lr, "epochs": epochs, "batch_size": batch_size, "schedule": "cosine"}


def _adam(lr: float, epochs: int, batch_size: int = 64) -> dict[str, Any]:
    return {"optimizer": "adam", "lr": lr, "epochs": epochs, "batch_size": batch_size, "schedule": "cosine"}


_CIFAR10_CNN = _factory("proponent.models.small_cnn:SmallCNN", {"channels": 3, "classes": 10, "size": 32})

_ALL = (
    _logistic("digits", "Logistic regression, scikit-learn's digits", 8, "proponent.datasets.digits", 0.93),
    _logistic("mnist", "Logistic regression, MNIST", 28, "proponent.datasets.mnist", 0.89),
    _mnist_cnn(),
    _motorbike_fruit("bce"),
    _motorbike_fruit("nll"),
    _motorbike_fruit("hinge"),
    _cifar10(
        name="cifar10-cnn",
        title="Small CNN, 4,000 images of CIFAR-10",
        model=_CIFAR10_CNN,
        training=_sgd(lr=0.02, epochs=16),
        weight_decay=0.005,
        expected_accuracy=0.95,
    ),
    _cifar10(
        name="cifar10-cnn-50k",
        title=f"Small CNN, {cifar10.JPEG_TITLE}",
        model=_CIFAR10_CNN,
        training=_sgd(lr=0.02, epochs=12),
        weight_decay=0.001,
        expected_accuracy=0.92,
        source="jpeg",
    ),
    _cifar10(
        name="cifar10-resnet20",
        title="ResNet-20, 4,000 images of CIFAR-10",
        model=_factory("proponent.models.resnet:resnet20", {"classes": 10}),
        training=_sgd(lr=0.05, epochs=20),
        weight_decay=0.0005,
        expected_accuracy=0.95,
    ),
    _cifar10(
        name="cifar10-efficientnet-b0",
        title="EfficientNet-B0 with SiLU, 4,000 images of CIFAR-10",
        model=_factory("proponent.models.efficientnet:efficientnet_b0", {"classes": 10, "stem": "cifar"}),
        training=_adam(lr=0.001, epochs=40),
        weight_decay=0.0001,
        expected_accuracy=0.7,
    ),
    _cifar10(
        name="cifar10-resnet50",
        title="ResNet-50, 4,000 images of CIFAR-10",
        model=_factory("proponent.models.resnet50:resnet50", {"classes": 10, "stem": "cifar"}),
        training=_sgd(lr=0.02, epochs=40),
        weight_decay=0.0005,
        expected_accuracy=0.7,
    ),
    _sst2(),
    _adult(),
    _made_up(_sst2(), "sentences", "Small DistilBERT, sentences that are drawn from a seed", 0.9, epochs=12),
    _made_up(
        _adult(), "loans", "MLP with embeddings of categories, loans that are drawn from a seed", 0.9, epochs=40
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""Every preset by name."""
