"""A multilayer perceptron of any depth: what depth does to influence can be seen without convolutions."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from proponent.models.variants import activation as new_activation


class MLP(nn.Sequential):
    """Flatten, ``depth`` hidden layers of one width, a linear layer: inputs ``[B, ...]`` to logits ``[B, classes]``.

    Without hidden layers it is multinomial logistic regression.
    """

    def __init__(self, inputs: int, classes: int, depth: int, width: int = 32, activation: str = "relu") -> None:
        """Build the model.

        Args:
            inputs: Number of values per example.
            classes: Number of classes.
            depth: Hidden layers, 0 or more.
            width: Units of each hidden layer.
            activation: ``"relu"`` or ``"silu"``.

        Raises:
            InvalidInputError: If the activation is unknown.
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number in range(depth):
            layers[f"hidden{number}"] = nn.Linear(width if number else inputs, width)
            layers[f"activation{number}"] = new_activation(activation)
        layers["linear"] = nn.Linear(width if depth else inputs, classes)
        super().__init__(layers)
