"""The models that several experiments ask for."""

from __future__ import annotations

from dataclasses import replace

from proponent.spec import Factory
from proponent.study.workbench import Workbench
from proponent.training.presets import PRESETS, Preset


def logistic(bench: Workbench) -> Preset:
    """Logistic regression on MNIST at 14 x 14 pixels; on scikit-learn's digits in quick mode.

    With a quarter of the pixels the exact Hessian is a 64th of the work, so that all seeds are done in minutes.
    """
    model = {"inputs": 196, "classes": 10}
    small = replace(
        PRESETS["mnist"],
        model=Factory(factory="proponent.models.logistic:LogisticRegression", kwargs=model),
        transform=Factory(factory="proponent.datasets.transforms:converted", kwargs={"mode": "L", "size": [14, 14]}),
    )
    return bench.of(small, PRESETS["digits"])


def perceptron(depth: int, *, epochs: int, activation: str = "relu", width: int = 32) -> Preset:
    """A perceptron of some depth on scikit-learn's digits, trained by SGD, with EK-FAC."""
    kwargs = {"inputs": 64, "classes": 10, "depth": depth, "width": width, "activation": activation}
    return replace(
        PRESETS["digits"],
        name=f"digits-mlp-{depth}",
        title=f"Perceptron with {depth} hidden layers, scikit-learn's digits",
        model=Factory(factory="proponent.models.mlp:MLP", kwargs=kwargs),
        weight_decay=0.001,
        training={"optimizer": "sgd", "lr": 0.05, "epochs": epochs, "batch_size": 32, "schedule": "cosine"},
        curvature={"kind": "ekfac"},
    )
