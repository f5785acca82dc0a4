"""A small convolutional net for two classes of 30 x 30 colour images, with a head for each binary loss."""

from __future__ import annotations

from torch import nn

from proponent.errors import InvalidInputError
from proponent.models.small_cnn import SmallCNN

_OUTPUTS = {"bce": 1, "nll": 2, "hinge": 1}


class BinaryCNN(SmallCNN):
    """Inputs ``[B, 3, 30, 30]``; outputs fit the loss of the same name as the head.

    Heads ``bce`` (a logit) and ``hinge`` (a score) have outputs ``[B, 1]``, positive for label 1; head
    ``nll`` has log-probabilities ``[B, 2]``.
    """

    def __init__(self, head: str) -> None:
        """Build the model.

        Raises:
            InvalidInputError: If the head is none of ``bce``, ``nll`` and ``hinge``.
        """
        if head not in _OUTPUTS:
            raise InvalidInputError(f"Unknown head {head!r}, expected one of {tuple(_OUTPUTS)}.", field="head")
        super().__init__(channels=3, classes=_OUTPUTS[head], size=30)
        if head == "nll":
            self.add_module("log_softmax", nn.LogSoftmax(dim=1))
