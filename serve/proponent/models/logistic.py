"""Multinomial logistic regression: the convex model whose influence is exact."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class LogisticRegression(nn.Sequential):
    """Flatten, then one linear layer: inputs ``[B, ...]`` to logits ``[B, classes]``."""

    def __init__(self, inputs: int, classes: int) -> None:
        """Build the model.

        Args:
            inputs: Number of values per example, e.g. 784 for 28 x 28 grey pixels.
            classes: Number of classes.
        """
        super().__init__(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(inputs, classes)))
