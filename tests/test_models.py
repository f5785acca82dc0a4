"""Models: output shapes, parameter counts of the literature, and activations that hooks can live with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from proponent.errors import InvalidInputError
from proponent.models.binary_cnn import BinaryCNN
from proponent.models.efficientnet import efficientnet_b0
from proponent.models.logistic import LogisticRegression
from proponent.models.mlp import MLP
from proponent.models.resnet import resnet20
from proponent.models.resnet50 import resnet50
from proponent.models.small_cnn import SmallCNN

Factory = Callable[[], nn.Module]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("factory", "count"),
    [
        (lambda: LogisticRegression(inputs=784, classes=10), 7_850),
        (lambda: SmallCNN(channels=1, classes=10, size=28), 106_122),
        (lambda: SmallCNN(channels=3, classes=10, size=32), 137_642),
        (lambda: BinaryCNN("bce"), 106_337),
        (lambda: BinaryCNN("nll"), 106_402),
        (lambda: resnet20(10), 272_474),
        (lambda: MLP(inputs=64, classes=10, depth=0), 650),
        (lambda: MLP(inputs=64, classes=10, depth=2, width=32), 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10),
        (lambda: resnet50(1000), 25_557_032),
        (lambda: efficientnet_b0(1000), 5_288_548),
    ],
)
def test_parameter_counts(factory: Factory, count: int) -> None:
    with torch.device("meta"):
        assert parameters(factory()) == count


@pytest.mark.parametrize(
    ("factory", "shape", "outputs"),
    [
        (lambda: LogisticRegression(inputs=64, classes=10), (1, 8, 8), 10),
        (lambda: SmallCNN(channels=3, classes=7, size=32), (3, 32, 32), 7),
        (lambda: SmallCNN(channels=3, classes=4, size=30), (3, 30, 30), 4),
        (lambda: BinaryCNN("bce"), (3, 30, 30), 1),
        (lambda: BinaryCNN("hinge"), (3, 30, 30), 1),
        (lambda: BinaryCNN("nll"), (3, 30, 30), 2),
        (lambda: resnet20(10, activation="silu"), (3, 32, 32), 10),
        (lambda: MLP(inputs=64, classes=10, depth=3, activation="silu"), (1, 8, 8), 10),
        (lambda: resnet50(10, stem="cifar"), (3, 32, 32), 10),
        (lambda: efficientnet_b0(10, stem="cifar", activation="relu"), (3, 32, 32), 10),
    ],
)
def test_output_shapes(factory: Factory, shape: tuple[int, ...], outputs: int) -> None:
    model = factory().eval()
    assert model(torch.rand(2, *shape)).shape == (2, outputs)


def test_nll_head_gives_log_probabilities() -> None:
    outputs = BinaryCNN("nll")(torch.rand(4, 3, 30, 30))
    assert torch.allclose(outputs.exp().sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("factory", "stride"), [(resnet50, 32), (efficientnet_b0, 32)], ids=["resnet50", "efficientnet_b0"]
)
def test_cifar_stem_keeps_resolution(factory: Callable[..., nn.Module], stride: int) -> None:
    shapes = {}
    for stem in ("imagenet", "cifar"):
        model = factory(10, stem=stem).eval()
        pool = model.avgpool
        pool.register_forward_pre_hook(lambda _, args, stem=stem: shapes.update({stem: args[0].shape[-1]}))
        model(torch.rand(1, 3, 64, 64))
    assert shapes["imagenet"] == 64 // stride
    assert shapes["cifar"] >= 2 * shapes["imagenet"]


@pytest.mark.parametrize("name", ["relu", "silu"])
@pytest.mark.parametrize("factory", [resnet50, efficientnet_b0], ids=["resnet50", "efficientnet_b0"])
def test_activations_are_swapped_and_never_in_place(factory: Callable[..., nn.Module], name: str) -> None:
    with torch.device("meta"):
        model = factory(10, activation=name)
    found = [module for module in model.modules() if isinstance(module, (nn.ReLU, nn.SiLU))]
    assert found
    assert {type(module) for module in found} == {nn.ReLU if name == "relu" else nn.SiLU}
    assert not any(module.inplace for module in found)


@pytest.mark.parametrize(
    "build",
    [
        lambda: BinaryCNN("softmax"),
        lambda: resnet20(10, activation="tanh"),
        lambda: resnet50(10, stem="mnist"),
        lambda: efficientnet_b0(10, stem="mnist"),
    ],
)
def test_unknown_options_are_refused(build: Factory) -> None:
    with pytest.raises(InvalidInputError, match="expected one of"):
        build()
