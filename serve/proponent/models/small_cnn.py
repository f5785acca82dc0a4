"""A convolutional net small enough to retrain hundreds of times: two convolutions, two linear layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class SmallCNN(nn.Sequential):
    """Two blocks of convolution, ReLU and 2 x 2 max-pooling, then two linear layers.

    Inputs ``[B, channels, size, size]``, logits ``[B, classes]``. With the default widths, 28 x 28 grey
    images and ten classes make P = 106,122 parameters.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        first: int = 16,
        second: int = 32,
        hidden: int = 64,
    ) -> None:
        """Build the model.

        Args:
            channels: Channels of the images.
            classes: Number of outputs.
            size: Height and width of the images, at least 4.
            first: Channels after the 5 x 5 convolution.
            second: Channels after the 3 x 3 convolution.
            hidden: Width of the first linear layer.
        """
        pooled = size // 2 // 2
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, first, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(first, second, 3, padding=1),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * pooled * pooled, hidden),
                relu3=nn.ReLU(),
                fc2=nn.Linear(hidden, classes),
            )
        )
